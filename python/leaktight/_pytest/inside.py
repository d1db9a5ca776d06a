"""All that touches pytest's insides. Each is asked for by what is there, not by pytest's version, and does
without what is not: :func:`missing` says what that costs."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Callable, Optional, cast

import pytest

#: What the rounds cannot do without: where it is, and its name.
NEEDED = (("_pytest.runner", "runtestprotocol"), ("_pytest.runner.SetupState", "teardown_exact"), ("_pytest.main.Session", "_setupstate"))
#: And what they can, with what that costs.
USED = (
    ("_pytest.fixtures", "call_fixture_func", "what fixtures allocate does not count"),
    ("_pytest.fixtures.FixtureDef", "_finalizers", "pytest keeps the fixtures of every round"),
    ("_pytest.fixtures.FixtureDef", "cached_result", "pytest keeps the fixtures of every round"),
    ("_pytest.runner.SetupState", "stack", "pytest keeps the fixtures of every round"),
    ("_pytest.warnings", "catch_warnings_for_item", "the rounds run without the suite's filters for warnings"),
    ("_pytest.nodes.Item", "_report_sections", "pytest keeps the output of every round"),
    ("_pytest.python.Function", "_obj", "the rounds of a method share an instance"),
    ("_pytest.tmpdir.TempPathFactory", "_retention_policy", "pytest keeps the folder `tmp_path` of every round"),
    ("_pytest.tmpdir.pytest_configure", "_tmp_path_factory", "pytest keeps the folder `tmp_path` of every round, and files in it are reported"),
    ("_pytest.junitxml", "xml_key", "JUnit files have no figures"),
    ("_pytest._io.TerminalWriter", "_file", "nothing says how far a long test is"),
)


def cannot_repeat() -> Optional[str]:
    """Why no test can be repeated with this pytest; `None` when it can."""
    lacking = [name for where, name in NEEDED if not _is_there(where, name)]
    return f"{_this()} has no {_named(lacking)}, which repeating a test needs" if lacking else None


def missing() -> list[str]:
    """What this pytest does not have, one line for each part that does without."""
    parts: dict[str, list[str]] = {}
    for where, name, cost in USED:
        if not _is_there(where, name):
            parts.setdefault(cost, []).append(name)
    return [f"{_this()} has no {_named(names)}: {cost}" for cost, names in parts.items()]


def _this() -> str:
    return f"pytest {pytest.__version__}"


def _named(names: Iterable[str]) -> str:
    return " and no ".join(f"`{name}`" for name in names)


def _is_there(where: str, name: str) -> bool:
    owner = _find(where)
    if owner is None:
        return False
    if isinstance(owner, type):
        # Instances have it when a method sets it.
        functions = [vars(part) for part in owner.__mro__ if part is not object]
        return hasattr(owner, name) or any(_mentions(function, name) for members in functions for function in members.values())
    return hasattr(owner, name) or _mentions(owner, name)


def _mentions(function: Any, name: str) -> bool:
    function = getattr(function, "fget", function)
    code = getattr(function, "__code__", None)
    return code is not None and (name in code.co_names or name in code.co_consts)


def _find(where: str) -> Any:
    """A module or something in one; `None` where there is no such thing."""
    found: Any = None
    path = ""
    for name in where.split("."):
        path = f"{path}.{name}" if path else name
        inner = getattr(found, name, None)
        if inner is None:
            try:
                inner = importlib.import_module(path)
            except ImportError:
                return None
        found = inner
    return found


def run_round(item: pytest.Item) -> list[pytest.TestReport]:
    """The reports of one run of a test, told to nobody. Nothing above the test is torn down: its parent is what
    comes "next"."""
    return cast("list[pytest.TestReport]", _find("_pytest.runner").runtestprotocol(item, log=False, nextitem=cast(Any, item.parent)))


@contextlib.contextmanager
def scopes_above_stay(item: pytest.Item, wanted: Callable[[], bool]) -> Iterator[None]:
    """Where it is wanted when a test is torn down, keeps fixtures of classes, modules and the session that its
    rounds still need."""
    state = item.session._setupstate
    plain = state.teardown_exact

    def teardown_exact(nextitem: Optional[pytest.Item]) -> None:
        plain(cast(Any, item.parent) if wanted() else nextitem)

    state.teardown_exact = teardown_exact  # type: ignore[method-assign]
    try:
        yield
    finally:
        del state.teardown_exact


def tear_down(item: pytest.Item, nextitem: Optional[pytest.Item]) -> None:
    """Tears down what is above a test and the next one does not need."""
    capture = item.config.pluginmanager.getplugin("capturemanager")
    captured = capture.item_capture("teardown", item) if hasattr(capture, "item_capture") else contextlib.nullcontext()
    with captured:
        item.session._setupstate.teardown_exact(nextitem)


@contextlib.contextmanager
def fixtures_called_by(wrap: Callable[[Callable[..., Any], Any], Callable[..., Any]]) -> Iterator[None]:
    """Has pytest call ``wrap(function, request)`` instead of the function of a fixture."""
    home = _find("_pytest.fixtures")
    plain = getattr(home, "call_fixture_func", None)
    if plain is None:
        yield
        return

    def call(function: Callable[..., Any], request: Any, arguments: dict[str, Any]) -> Any:
        return plain(wrap(function, request), request, arguments)

    home.call_fixture_func = call
    try:
        yield
    finally:
        home.call_fixture_func = plain


def forget_finished(item: pytest.Item, definitions: Iterable[Any]) -> None:
    """Fixtures of wider scopes keep a finalizer, and all that hangs on it, for each use by a fixture of function scope,
    though that one is long finished (``FixtureDef.execute`` of pytest). Up to pytest 8.0 what they belong to keeps one
    more for each test that uses them (``FixtureRequest._schedule_finalizers``); one is enough."""
    for definition in definitions:
        finalizers = getattr(definition, "_finalizers", None)
        if finalizers:
            finalizers[:] = [finalizer for finalizer in finalizers if not _is_finished(finalizer)]
    stack = getattr(item.session._setupstate, "stack", {})
    for node in item.listchain()[:-1]:
        finalizers = stack[node][0] if node in stack else []
        seen: set[int] = set()
        kept = []
        for finalizer in finalizers:
            user = _user(finalizer)
            if user is None or id(user) not in seen:
                kept.append(finalizer)
            seen.add(id(user))
        if len(kept) < len(finalizers):
            finalizers[:] = kept


def _is_finished(finalizer: Any) -> bool:
    user = _user(finalizer)
    return getattr(user, "scope", None) == "function" and getattr(user, "cached_result", finalizer) is None


def _user(finalizer: Any) -> Optional[Any]:
    """The definition of the fixture that a finalizer is to finish."""
    bound = getattr(getattr(finalizer, "func", None), "__self__", None)
    around = []
    for cell in getattr(finalizer, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # Not set yet.
            around.append(cell.cell_contents)
    return next((user for user in (bound, *around) if hasattr(user, "cached_result")), None)


def forget_instance(item: pytest.Item) -> None:
    """Makes pytest take another instance of the test's class for the next round, as it takes one for each test."""
    if isinstance(item.parent, pytest.Class):
        for name in ("_obj", "_instance"):
            item.__dict__.pop(name, None)


def sections(item: pytest.Item) -> list[Any]:
    """The output of a test that reports will show."""
    return getattr(item, "_report_sections", [])


class _Nobody:
    """Takes a warning hook's call and drops it: the ordinary run has told of the same warnings."""

    class pytest_warning_recorded:
        @staticmethod
        def call_historic(kwargs: Any) -> None: ...


def warnings_of(item: pytest.Item) -> contextlib.AbstractContextManager[Any]:
    """The filters that apply to the test; pytest sets them around the protocol, not in it."""
    home = _find("_pytest.warnings")
    if not item.config.pluginmanager.hasplugin("warnings"):
        return contextlib.nullcontext()
    if not hasattr(home, "catch_warnings_for_item"):
        return warnings.catch_warnings(record=True)
    return cast(
        "contextlib.AbstractContextManager[Any]",
        home.catch_warnings_for_item(config=item.config, ihook=_Nobody, when="runtest", item=item),
    )


@contextlib.contextmanager
def no_reports(item: pytest.Item) -> Iterator[None]:
    """Subtests report themselves while the test runs (pytest 9 and pytest-subtests), and every report is kept."""
    hooks: Any = item.ihook
    logreport = hooks.pytest_runtest_logreport
    hooks.pytest_runtest_logreport = lambda **report: []
    try:
        yield
    finally:
        hooks.pytest_runtest_logreport = logreport


@contextlib.contextmanager
def no_folders_kept(config: pytest.Config) -> Iterator[None]:
    """Makes pytest remove the ``tmp_path`` of each round; it would keep them all until a later run."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if not hasattr(factory, "_retention_policy"):
        yield
        return
    before = factory._retention_policy
    factory._retention_policy = "failed"
    try:
        yield
    finally:
        factory._retention_policy = before


def folder_for_tests(config: pytest.Config) -> Optional[str]:
    """Where pytest makes the folders ``tmp_path``, and removes them later."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    base = getattr(factory, "_basetemp", None)
    return None if base is None else str(base)


def add_to_junit(config: pytest.Config, figures: dict[str, Any], second_cases: set[str]) -> None:
    """Properties of the test suite, since test cases cannot have any in xunit2; and names for what tests have a second
    case for."""
    key: Any = getattr(_find("_pytest.junitxml"), "xml_key", None)
    xml: Any = config.stash.get(key, None) if key is not None else None
    if hasattr(xml, "add_global_property"):
        for name, value in figures.items():
            xml.add_global_property(name, value)
    # A test's second case would have the name of the first, which is written already when its teardown has been told.
    for case in getattr(xml, "node_reporters_ordered", []):
        attributes = getattr(case, "attrs", {})
        if attributes.get("name") in second_cases:
            attributes["name"] += " (leaks)"


def raw_output(config: pytest.Config) -> Optional[Any]:
    """The file behind pytest's terminal; `None` where that is no terminal, or is not known."""
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or not reporter.isatty:
        return None
    return getattr(config.get_terminal_writer(), "_file", None)


def width_of(reporter: Any) -> Optional[int]:
    """Columns of pytest's terminal; `None` where it has not been told of one."""
    return getattr(reporter.config.get_terminal_writer(), "fullwidth", None)
