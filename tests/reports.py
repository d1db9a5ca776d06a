"""Asking for a report on a statement, and small libraries to ask about."""

from __future__ import annotations

import json
import subprocess

from support import leaktight

#: For statements: takes a reference to an object and keeps it.
INCREF = "import ctypes, gc; incref = ctypes.pythonapi.Py_IncRef; incref.argtypes = [ctypes.py_object]; incref.restype = None\n"


def findings(python, setup, statement, *arguments, **more):
    done = leaktight(python, "check", "--json", *arguments, "-s", setup, statement, **more)
    assert done.returncode in (0, 1, 3), done
    return json.loads(done.stdout)["findings"]


def one(python, setup, statement, *arguments, **more):
    found = findings(python, setup, statement, *arguments, **more)
    assert len(found) == 1, [finding["message"] for finding in found]
    return found[0]


def text(python, setup, statement, **more):
    return leaktight(python, "check", "-s", setup, statement, **more).stdout


def built(folder, name, source, *flags):
    """A library from C, or from C++ if its name says so."""
    path, library = folder / name, folder / f"{name.split('.')[0]}.so"
    path.write_text(source)
    compiler = "c++" if name.endswith(".cpp") else "cc"
    subprocess.run([compiler, "-g", "-shared", "-fPIC", "-fno-builtin", *flags, str(path), "-o", str(library)], check=True)
    return f"import ctypes; library = ctypes.CDLL({str(library)!r})\n"
