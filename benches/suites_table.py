"""The suites of `suites.py`: what is installed, and which tests are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

PYTEST = ("pytest==8.4.2",)


@dataclass(frozen=True)
class Suite:
    """A published package, and tests of its own."""

    name: str
    requirement: str
    #: Paths in the source distribution, or options that name installed tests.
    tests: Sequence[str]
    #: What the tests need of the source distribution; nothing when the wheel has them.
    source: Sequence[str] = ()
    needs: Sequence[str] = ()
    arguments: Sequence[str] = ()
    #: A release that is known to leak, and whose own tests reach it.
    leaks: bool = False


#: Tests of multidict that need a C compiler, or a plugin that measures times.
_NOT_OF_MULTIDICT = ("capi", "callgrind_driver", "mypy", "release_notes_md", "multidict_benchmarks", "views_benchmarks", "watched_benchmarks")


def _multidict(name: str, version: str, marker: str, leaks: bool = False) -> Suite:
    # Variants in pure Python have no native code to judge.
    ignored = [f"--ignore=tests/test_{name}.py" for name in _NOT_OF_MULTIDICT]
    needs = ["objgraph==3.6.2", "psutil==7.2.2", "hypothesis==6.168.0"]
    return Suite(name, f"multidict=={version}", ["tests"], ["tests"], needs, ["-m", f"{marker} and not pure_python", *ignored], leaks)


_NOT_OF_NUMPY = ("sort_int", "sort_float", "partition", "sort_degraded", "largish", "accelerate_framework", "test_combinations")

SUITES = (
    Suite("zstandard-0.25.0", "zstandard==0.25.0", ["tests"], ["tests"], needs=["hypothesis==6.168.0"], leaks=True),
    Suite(
        "msgspec-0.22.0",
        "msgspec==0.22.0",
        [f"tests/unit/test_{name}.py" for name in ("json", "msgpack", "convert")],
        ["tests"],
        needs=["attrs==26.1.0", "pyyaml==6.0.4", "tomli_w==1.2.0"],
        leaks=True,
    ),
    _multidict("multidict-6.7.1", "6.7.1", "not hypothesis", leaks=True),
    # The file that is left out is for builds without a GIL.
    Suite("bitarray", "bitarray==3.12.3", ["--pyargs", *(f"bitarray.test_{name}" for name in ("bitarray", "bitfields", "util"))]),
    Suite(
        "yarl",
        "yarl==1.25.1",
        ["tests"],
        ["tests"],
        needs=["hypothesis==6.168.0"],
        arguments=[f"--ignore=tests/test_{name}_benchmarks.py" for name in ("quoting", "url", "query")],
    ),
    Suite("frozenlist", "frozenlist==1.8.0", ["tests"], ["tests"]),
    # A tag in a cycle is never freed.
    Suite("cbor2", "cbor2==6.3.0", ["tests"], ["tests"], ["hypothesis==6.168.0"], leaks=True),
    # The tests that are left out make 17 million dicts, and 65,535 entries a hundred times: more work than all others.
    Suite(
        "orjson",
        "orjson==3.13.0",
        ["test"],
        ["test"],
        arguments=["--ignore=test/test_fake.py", "-k", "not test_dict_empty and not 0xffff_repeated"],
    ),
    Suite(
        "rapidfuzz",
        "rapidfuzz==3.14.6",
        ["tests"],
        ["tests"],
        needs=["hypothesis==6.168.0", "numpy==2.4.6"],
    ),
    # The compiled build: each generator of a dialect loses a tuple. The tests that are left out compare with pandas and DuckDB,
    # or build packages.
    Suite(
        "sqlglot",
        "sqlglot==30.30.0",
        [
            f"tests/test_{name}.py"
            for name in ("tokens", "parser", "expressions", "build", "transpile", "generator", "transforms", "serde", "schema", "lineage", "diff")
        ],
        ["tests"],
        needs=["sqlglotc==30.30.0"],
        leaks=True,
    ),
    Suite(
        "pydantic-core",
        "pydantic-core==2.50.5",
        ["tests"],
        ["tests"],
        needs=["hypothesis==6.168.0", "dirty-equals==0.11", "inline-snapshot==0.36.1", "pytest-mock==3.17.0", "typing-inspection==0.4.5", "tzdata==2026.6"],
        arguments=["--ignore=tests/benchmarks", "--ignore=tests/test_docstrings.py"],
    ),
    # Without the thousands of combinations of types and orders that are sorted, and the slowest of the others.
    Suite(
        "numpy-core",
        "numpy==2.4.6",
        ["--pyargs", "numpy._core.tests.test_multiarray", "numpy._core.tests.test_numeric"],
        needs=["hypothesis==6.168.0"],
        arguments=["-m", "not slow", "-k", " and ".join(f"not {name}" for name in _NOT_OF_NUMPY)],
    ),
    Suite("regex", "regex==2026.11.19", ["--pyargs", "regex"]),
    Suite("msgpack", "msgpack==1.2.4", ["test"], ["test"]),
    Suite("simplejson", "simplejson==4.3.0", ["--pyargs", "simplejson"]),
    Suite("ujson", "ujson==6.1.0", ["tests"], ["tests"]),
    # The package leaves hypothesis to a job of its own.
    _multidict("multidict", "7.2.1", "not hypothesis"),
    _multidict("multidict-hypothesis", "7.2.1", "hypothesis"),
    Suite("psutil", "psutil==7.2.2", ["tests"], ["tests"], arguments=["--ignore=tests/test_memleaks.py"]),
    # The base classes are no tests, and the functions called `test_suite` are for lxml's own runner.
    Suite(
        "lxml",
        "lxml==6.1.3",
        ["src/lxml/tests"],
        ["src/lxml/tests", "doc", "samples"],
        arguments=["-k", "not test_suite and not TestCaseBase and not _XIncludeTestCase"],
    ),
    Suite("pillow", "pillow==13.0.0", ["Tests"], ["Tests"], arguments=["-k", "test_image or test_file_png or test_file_jpeg"]),
    # The test that is left out takes 16 s by itself, most of the time of all others.
    Suite(
        "numpy-linalg",
        "numpy==2.4.6",
        ["--pyargs", "numpy.linalg"],
        needs=["hypothesis==6.168.0"],
        arguments=["-k", "not test_openblas_threading"],
    ),
    # Without those that read and write large files.
    Suite(
        "numpy-lib",
        "numpy==2.4.6",
        ["--pyargs", *(f"numpy.lib.tests.test_{name}" for name in ("function_base", "nanfunctions", "arraysetops", "histograms"))],
        needs=["hypothesis==6.168.0"],
    ),
    Suite("ujson-5.11.0", "ujson==5.11.0", ["tests"], ["tests"], leaks=True),
    _multidict("multidict-6.7.0", "6.7.0", "not hypothesis", leaks=True),
)
