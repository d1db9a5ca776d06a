import pytest
import zoo


@pytest.fixture(scope="session")
def document():
    return {"rows": [{"id": number, "name": f"row {number}"} for number in range(50)]}


@pytest.fixture
def header(tmp_path):
    path = tmp_path / "header"
    path.write_bytes(b"Content-Type: text/plain")
    yield path.read_bytes()


@pytest.fixture(scope="module")
def pool():
    # Opened once for all tests of a module: no test's leak.
    zoo.pool_start(2)
    return zoo
