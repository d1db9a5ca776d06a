"""The ground truth of the reference zoo: what each statement does to the count of which object.

A case of kind "reference" or "over-release" miscounts references to an object that lives on anyway, so
it costs no memory per call. One of kind "memory" loses new objects. smoke_references.py measures every
figure on every interpreter.
"""

# Annotations are evaluated, so that 3.9 can load this file by its path alone.
import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Optional, Union

from manifest import Version, caught, marked_line

#: From here on singletons and the types of the interpreter are immortal (PEP 683).
IMMORTAL = (3, 12)


@dataclass(frozen=True)
class Reference:
    """One statement to run again and again, and what it does to references."""

    name: str
    #: The extension module.
    module: str
    #: Runs once, before the check; imports what the statement needs.
    setup: str
    statement: str
    #: "leak"; "clean": the count stands still, or moves within a bound; "stored": somebody holds every
    #: reference, of which there are ever more.
    verdict: str
    #: What a finding must be: "reference", "over-release" or "memory". None for "clean" and "stored".
    kind: Optional[str]
    #: Exact, per call, as an average where it is a fraction: references added to the object, or for an
    #: over-release taken from it; lost blocks for "memory". 0 for "clean".
    references_per_call: Union[int, Fraction]
    #: The type of the object, bare for builtins.
    type_name: Optional[str] = None
    #: What the description of the object must contain.
    text: str = ""
    #: "warning" where the references keep only a singleton or a type of a module alive.
    severity: Optional[str] = None
    #: The first version whose object is immortal: its count means nothing, and nothing must be found.
    immortal_from: Optional[Version] = None
    #: The first later version where it is mortal again.
    mortal_from: Optional[Version] = None
    #: Evaluates to the address of the object, after the setup. Empty for lost memory.
    address: str = ""
    #: The function that takes or gives back the reference; its file, relative to this folder; and the
    #: comment at the end of that line. None for twins.
    function: Optional[str] = None
    file: Optional[str] = None
    marker: Optional[str] = None
    #: The calls after which a twin has reached its bound.
    settles_after: int = 0
    note: str = ""

    def line(self) -> Optional[int]:
        """The number of the line that ends in `marker`."""
        return None if self.marker is None or self.file is None else marked_line(self.file, self.marker)

    def immortal(self, version: Version = sys.version_info) -> bool:
        """Whether the object's count means nothing on an interpreter of that version."""
        begun = self.immortal_from is not None and version[:2] >= self.immortal_from
        return begun and not (self.mortal_from is not None and version[:2] >= self.mortal_from)


# What statements are given, made at run time: constants of the code may be interned.
KEY = "KEY = ''.join(['time', 'out'])"
DATA = "DATA = bytes(range(48, 58))"
ROWS = "ROW = bytes(range(48, 58))\nROWS = [ROW, ROW, ROW]"
PATH = "PATH = b'/'.join([b'', b'etc', b'hosts'])"
USER = "class User:\n    pass\nUSER = User()\nUSER.session = ''.join(['open', ' since noon'])"
LOG = KEY + "\nLOG = []"

#: Of a source file: the module, what the names of its cases begin with, and its comments.
SOURCES = {
    "c/zoo_refs_bugs.c": ("zoo_refs", "", "/* %s */"),
    "c/zoo_refs_objects.c": ("zoo_refs", "", "/* %s */"),
    "c/zoo_refs_twins.c": ("zoo_refs", "", "/* %s */"),
    "cython/zoo_cy.pyx": ("zoo_cy", "cy_", "# %s"),
    "rust/src/references.rs": ("zoo_rs", "rs_", "// %s"),
}
#: What a name begins with: the verdict, the kind, references per call, and the word of the marker.
NAMES = {
    "leak": ("leak", "reference", 1, "LEAK"),
    "release": ("leak", "over-release", 1, "OVER-RELEASE"),
    "twin": ("clean", None, 0, None),
    "stored": ("stored", None, 1, None),
}


def _case(called: str, file: str, arguments: str, setup: str, name: str = "", **more: object) -> Reference:
    module, prefix, comment = SOURCES[file]
    name = name or called
    verdict, kind, references, word = NAMES[name.split("_", 1)[0]]
    fields = {"statement": f"{module}.{called}({arguments})", "kind": kind, "references_per_call": references}
    if word:
        fields.update(severity="error", function=called, file=file, marker=comment % f"{word}: {prefix}{called}")
    setup = f"import {module}\n{setup}".strip()
    return Reference(name=prefix + name, module=module, setup=setup, verdict=verdict, **{**fields, **more})


def _bug(called: str, arguments: str, setup: str, address: str, type_name: str, text: str, **more: object) -> Reference:
    """A bug with an object that the caller has."""
    more = {"file": "c/zoo_refs_bugs.c", **more}
    return _case(called, arguments=arguments, setup=setup, address=address, type_name=type_name, text=text, **more)


def _own(called: str, address: str, type_name: str, text: str, **more: object) -> Reference:
    """A bug with an object of the module or the interpreter."""
    more = {"file": "c/zoo_refs_objects.c", "arguments": "", "setup": "", **more}
    return _case(called, address=address, type_name=type_name, text=text, **more)


PASSED = [
    _bug("leak_passed", "KEY", KEY, "id(KEY)", "str", "argument 1"),
    _bug(
        "leak_passed",
        "POINT",
        "class Point:\n    pass\nPOINT = Point()",
        "id(POINT)",
        "__main__.Point",
        "argument 1",
        name="leak_passed_instance",
    ),
    _bug("leak_passed", "ROWS", "ROWS = [[1], [2]]", "id(ROWS)", "list", "argument 1", name="leak_passed_list"),
    _bug("leak_second_passed", "[], KEY", KEY, "id(KEY)", "str", "argument 2"),
    _bug("leak_passed_10th", "KEY", KEY, "id(KEY)", "str", "argument 1", references_per_call=Fraction(1, 10)),
    _bug(
        "leak_type_of_passed",
        "POINT",
        "POINT = type('Point', (), {})()",
        "id(type(POINT))",
        "type",
        "Point",
        note="no module has the class",
    ),
    _bug(
        "leak_type_of_passed",
        "KEY",
        KEY,
        "id(str)",
        "type",
        "str",
        name="leak_builtin_type",
        severity="warning",
        immortal_from=IMMORTAL,
    ),
    _bug(
        "leak_dict_value",
        "TABLE, KEY",
        KEY + "\nVALUE = ' '.join(['thirty', 'seconds'])\nTABLE = {KEY: VALUE}",
        "id(VALUE)",
        "str",
        "thirty seconds",
    ),
    _bug("leak_attribute", "USER", USER, "id(USER.session)", "str", "open since noon"),
    _bug(
        "leak_iterated",
        "ROWS",
        ROWS,
        "id(ROW)",
        "bytes",
        "0123456789",
        references_per_call=3,
        note="the iterator hands out the same item three times",
    ),
    _bug(
        "leak_callback_result",
        "answer",
        "ANSWER = ' '.join(['forty', 'two'])\ndef answer():\n    return ANSWER",
        "id(ANSWER)",
        "str",
        "forty two",
    ),
    _bug("leak_path", "PATH", PATH, "id(PATH)", "bytes", "argument 1"),
    _bug("leak_buffer", "DATA", DATA, "id(DATA)", "bytes", "argument 1"),
    _bug("leak_buffer", "DATA", "DATA = bytearray(10)", "id(DATA)", "bytearray", "argument 1", name="leak_buffer_bytearray"),
    _bug("release_stolen", "KEY", KEY, "id(KEY)", "str", "argument 1"),
    _bug("release_borrowed", "ROWS", ROWS, "id(ROW)", "bytes", "0123456789"),
    _bug("release_passed_10th", "KEY", KEY, "id(KEY)", "str", "argument 1", references_per_call=Fraction(1, 10)),
]

SINGLETON = {"severity": "warning", "immortal_from": IMMORTAL}
#: 3.12 alone makes every interned string immortal.
INTERNED = {"immortal_from": (3, 12), "mortal_from": (3, 13)}
FORGETFUL = {"function": "forgetful_dealloc", "marker": "/* LEAK: forgetful_dealloc */"}

OWN = [
    _own(
        "leak_limits_on_error",
        "id(zoo_refs.LIMITS)",
        "tuple",
        "`LIMITS` of module `zoo_refs`",
        statement=caught("zoo_refs.leak_limits_on_error(5000)", "zoo_refs.Error"),
    ),
    _own("leak_defaults", "id(zoo_refs.DEFAULTS)", "dict", "`DEFAULTS` of module `zoo_refs`"),
    _own("leak_hidden", "zoo_refs.addresses()['token']", "bytes", "the hidden token"),
    _own("leak_hidden_type", "zoo_refs.addresses()['Ticket']", "type", "Ticket", severity="warning", note="no module has the type, but C does", **FORGETFUL),
    _own("leak_module_type", "id(zoo_refs.Session)", "type", "Session", severity="warning", **FORGETFUL),
    _own("leak_exception_type", "id(zoo_refs.Error)", "type", "Error", severity="warning"),
    _own("leak_builtin_exception_type", "id(ValueError)", "type", "ValueError", **SINGLETON),
    _own("leak_none", "id(None)", "NoneType", "None", **SINGLETON),
    _own("leak_true", "id(True)", "bool", "True", **SINGLETON),
    _own("leak_small_int", "id(7)", "int", "7", **SINGLETON),
    _own(
        "leak_interned",
        "id(sys.intern('zoo_refs.interned'))",
        "str",
        "zoo_refs.interned",
        setup="import sys",
        **INTERNED,
    ),
    _own("release_none", "id(None)", "NoneType", "None", immortal_from=IMMORTAL),
    _own("release_true", "id(True)", "bool", "True", immortal_from=IMMORTAL),
]

MEMORY = [
    _own("leak_appended", "", "int", "", kind="memory"),
    _own("leak_dict_entry", "", "float", "", kind="memory"),
    _own("leak_built", "", "bytes", "", kind="memory"),
    _own("leak_exception_object", "", "zoo_refs.Error", "", kind="memory"),
]

OTHER_LANGUAGES = [
    _bug("leak_reference", "KEY", KEY, "id(KEY)", "str", "argument 1", file="cython/zoo_cy.pyx"),
    _bug("leak_buffer", "DATA", DATA, "id(DATA)", "bytes", "argument 1", file="cython/zoo_cy.pyx"),
    _bug("release_argument", "KEY", KEY, "id(KEY)", "str", "argument 1", file="cython/zoo_cy.pyx"),
    _case("twin_buffer", "cython/zoo_cy.pyx", "DATA", DATA, address="id(DATA)"),
    _bug("leak_reference", "KEY", KEY, "id(KEY)", "str", "argument 1", file="rust/src/references.rs"),
    _own("leak_none", "id(None)", "NoneType", "None", file="rust/src/references.rs", **SINGLETON),
    _case("twin_reference", "rust/src/references.rs", "KEY", KEY, address="id(KEY)"),
]


def _twin(called: str, arguments: str = "KEY", setup: str = KEY, address: str = "id(KEY)", **more: object) -> Reference:
    return _case(called, "c/zoo_refs_twins.c", arguments, setup, address=address, **more)


RAISES = "ANSWER = ' '.join(['forty', 'two'])\nclass Failure(Exception):\n    pass\ndef fail():\n    raise Failure(ANSWER)"
NO_ARGUMENTS = {"arguments": "", "setup": ""}

TWINS = [
    _twin("twin_keeper"),
    _twin("twin_shy_keeper", note="the instance's traverse skips its type"),
    _twin("twin_capsule"),
    _twin("twin_containers"),
    _twin("twin_latest", settles_after=1),
    _twin("twin_ring_64", settles_after=64),
    _twin("twin_cache_500", settles_after=500, note="takes a reference at each of the first 500 calls"),
    _twin("twin_sawtooth_200", note="all are given back on every 200th call"),
    _twin("twin_free_list", address="", settles_after=1, **NO_ARGUMENTS),
    _twin("twin_stale_pointers", "[KEY]", note="the module's memory is full of addresses of dead objects"),
    _twin("twin_dict_value", "TABLE, KEY", KEY + "\nTABLE = {KEY: KEY}"),
    _twin("twin_attribute", "USER", USER, "id(USER.session)"),
    _twin("twin_iterated", "ROWS", ROWS, "id(ROW)"),
    _twin("twin_callback", "fail", RAISES, "id(ANSWER)", note="the callback raises"),
    _twin("twin_callback", "fail", RAISES, "id(Failure)", name="twin_callback_class"),
    _twin("twin_path", "PATH", PATH, "id(PATH)"),
    _twin("twin_buffer", "DATA", DATA, "id(DATA)"),
    _twin("twin_type", address="zoo_refs.addresses()['Careful']", **NO_ARGUMENTS),
    _twin("twin_defaults", address="id(zoo_refs.DEFAULTS)", **NO_ARGUMENTS),
    _twin(
        "twin_limits_on_error",
        address="id(zoo_refs.LIMITS)",
        statement=caught("zoo_refs.twin_limits_on_error(5000)", "zoo_refs.Error"),
        **NO_ARGUMENTS,
    ),
    _twin("twin_interned", "", "import sys", "id(sys.intern('zoo_refs.kept'))", settles_after=1, **INTERNED),
    _twin(
        "twin_raises",
        address="id(zoo_refs.Error)",
        statement=caught("zoo_refs.twin_raises()", "zoo_refs.Error"),
        **NO_ARGUMENTS,
    ),
    _twin("twin_built", address="", **NO_ARGUMENTS),
]

STORED = [
    _twin("stored_in_list", "LOG, KEY", LOG),
    _twin("stored_in_module"),
    _twin("stored_in_registry", note="an array in C memory"),
    _twin("stored_tagged", note="an array in C memory, the lowest bit of each word set"),
    _twin("stored_in_chain", note="a linked list in C memory"),
    _twin("twin_capsule", "KEY", LOG, name="stored_in_capsules", statement="LOG.append(zoo_refs.twin_capsule(KEY))"),
    _twin("twin_keeper", "KEY", LOG, name="stored_in_keepers", statement="LOG.append(zoo_refs.twin_keeper(KEY))"),
    _twin(
        "twin_shy_keeper",
        "KEY",
        LOG,
        name="stored_in_shy_keepers",
        statement="LOG.append(zoo_refs.twin_shy_keeper(KEY))",
        note="their type gains references that no traverse shows",
    ),
]

CASES = [*PASSED, *OWN, *MEMORY, *OTHER_LANGUAGES, *TWINS, *STORED]
BY_NAME = {case.name: case for case in CASES}
