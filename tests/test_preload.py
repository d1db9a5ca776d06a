"""A preloaded malloc is the one that is watched, whichever table of its symbols it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import support

METER = support.ZOO / "c" / "meter.c"

#: As mimalloc and the like: operators, and a `strdup`, that do not ask `malloc`.
OPERATORS = """
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

void *malloc(size_t size) { return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return __libc_calloc(count, size); }
void *realloc(void *block, size_t size) { return __libc_realloc(block, size); }
void free(void *block) { __libc_free(block); }

char *strdup(const char *text)
{
    size_t size = strlen(text) + 1;
    return static_cast<char *>(memcpy(__libc_malloc(size), text, size));
}
}

static void *found(void *block)
{
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

void *operator new(size_t size) { return found(__libc_malloc(size)); }
void *operator new[](size_t size) { return found(__libc_malloc(size)); }
void *operator new(size_t size, const std::nothrow_t &) noexcept { return __libc_malloc(size); }
void *operator new(size_t size, std::align_val_t alignment) { return found(__libc_memalign(size_t(alignment), size)); }
void operator delete(void *block) noexcept { __libc_free(block); }
void operator delete[](void *block) noexcept { __libc_free(block); }
void operator delete(void *block, size_t) noexcept { __libc_free(block); }
void operator delete(void *block, size_t, std::align_val_t) noexcept { __libc_free(block); }
"""

#: Calls that go through every kind of operator; the numbers that they return are checked.
CALLS = """
#include <cstddef>
#include <new>

struct alignas(128) Wide { char bytes[256]; };

extern "C" int asks_too_much(size_t size)
{
    try {
        char *volatile block = new char[size];
        delete[] block;
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

extern "C" size_t leaks_when_aligned(bool leaks)
{
    Wide *volatile wide = new Wide;
    size_t place = reinterpret_cast<size_t>(wide) % alignof(Wide);
    delete new (std::nothrow) Wide;
    if (!leaks)
        delete wide;
    return place;
}
"""


@pytest.mark.parametrize("style", ["gnu", "sysv"])
@pytest.mark.parametrize("binding", ["lazy", "now"])
def test_a_preloaded_malloc(style: str, binding: str, tmp_path: Path) -> None:
    library = tmp_path / "libmeter.so"
    support.zoo_build.compile_shared("cc", library, [METER], [f"-Wl,--hash-style={style}"])
    environment = {"LD_PRELOAD": str(library), **({"LD_BIND_NOW": "1"} if binding == "now" else {})}
    # Each of its blocks has a head in front, so a block that it did not serve would not survive its free.
    statement = "zoo.leak_malloc(); json.loads(text); sorted(text)"
    setup = "import json, zoo; text = json.dumps(list(range(99)))"
    done = support.leaktight(support.pythons()[0], "check", "--json", "-s", setup, statement, env=environment)
    assert done.returncode == 1, done
    report = json.loads(done.stdout)
    assert report["control"]["caught"] == 6, report
    found = [(each["blocks_per_call"], each["bytes_per_call"], each["stack"][0]["function"]) for each in report["findings"]]
    assert found == [(1.0, 100.0, "leak_malloc")], report


#: What C++ code leaks and does not, and what leaks by `strdup`.
CASES = [case for case in support.CASES if case.language == "c++" or "strdup" in case.name]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("operators")
    for name, text in (("operators", OPERATORS), ("calls", CALLS)):
        source = folder / f"{name}.cpp"
        source.write_text(text)
        support.zoo_build.compile_shared("c++", folder / f"{name}.so", [source], ["-std=c++17"])
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operators_of_the_allocators_own(case: support.Case, libraries: Path) -> None:
    report = support.check(support.pythons()[0], case, env={"LD_PRELOAD": str(libraries / "operators.so")})
    assert not support.complaint(support.pythons()[0], case, report), report


@pytest.mark.parametrize(
    ("call", "found"),
    [("asks_too_much(1 << 62) == 1", []), ("leaks_when_aligned(0) == 0", []), ("leaks_when_aligned(1) == 0", [(1.0, 256.0)])],
)
def test_exceptions_and_alignment(call: str, found: list[tuple[float, float]], libraries: Path) -> None:
    setup = (
        f"import ctypes; calls = ctypes.CDLL({str(libraries / 'calls.so')!r})\n"
        "calls.asks_too_much.argtypes = [ctypes.c_size_t]; calls.leaks_when_aligned.restype = ctypes.c_size_t"
    )
    environment = {"LD_PRELOAD": str(libraries / "operators.so")}
    done = support.leaktight(support.pythons()[0], "check", "--json", "-s", setup, f"assert calls.{call}", env=environment)
    assert done.returncode in (0, 1), done
    findings = json.loads(done.stdout)["findings"]
    assert [(each["blocks_per_call"], each["bytes_per_call"]) for each in findings] == found, findings
    assert all(each["allocator"] == "operator new" for each in findings), findings
