import io
import json
import re

import pytest
import zoo


def test_header_leaks():
    zoo.parse_header(b"Content-Type: text/plain")


@pytest.mark.parametrize("line", [b"a: b", b"Accept: */*", b"x: y"])
def test_headers_leaks(line):
    zoo.parse_header(line)


def test_header_from_file_leaks(header):
    zoo.parse_header(header)


def test_header_is_read(header):
    assert header.startswith(b"Content-Type")


def test_error_leaks():
    with pytest.raises(ValueError):
        zoo.leak_error_path()


def test_error():
    with pytest.raises(ValueError):
        zoo.twin_error_path()


def test_nested_leaks():
    zoo.leak_nested()


@pytest.mark.parametrize("size", [0, 1, 10, 100])
def test_json(document, size):
    rows = {"rows": document["rows"][:size]}
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize("pattern", ["a+b", "(x|y)*z", r"\d{3}"])
def test_pattern(pattern):
    assert re.compile(pattern).pattern == pattern


def test_output(capsys):
    print("hello")
    assert capsys.readouterr().out == "hello\n"


def test_environment(monkeypatch):
    monkeypatch.setenv("DEMO", "1")
    monkeypatch.setattr(zoo, "demo", io.StringIO(), raising=False)
    zoo.demo.write("x")


def test_log(caplog):
    import logging

    logging.getLogger("demo").warning("row %d", 5)
    assert "row 5" in caplog.text


def test_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "file").write_text("x")
    assert len(list(tmp_path.iterdir())) == 1


def test_pool(pool):
    pool.twin_pool()


def test_pool_leaks(pool):
    pool.leak_pool()
