# cython: language_level=3, freethreading_compatible=True
"""The extension module `zoo_cy`: leaks as Cython code makes them, and twins.

../manifest.py says what each function loses.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc


def leak_malloc():
    cdef char *samples = <char *>malloc(100)  # LEAK: cy_leak_malloc
    if samples == NULL:
        raise MemoryError()
    samples[0] = 1


def leak_incref():
    cdef list rows = []  # LEAK: cy_leak_incref
    Py_INCREF(rows)


def leak_error_path(long size):
    """Raises ValueError for a size that is not even, and loses its buffer."""
    cdef char *scratch = <char *>malloc(120)  # LEAK: cy_leak_error_path
    if scratch == NULL:
        raise MemoryError()
    if size % 2:
        raise ValueError("size is odd")
    free(scratch)


cdef class Table:
    """Allocates in __cinit__ and has no __dealloc__."""

    cdef double *cells

    def __cinit__(self, Py_ssize_t count):
        self.cells = <double *>malloc(count * sizeof(double))  # LEAK: cy_leak_extension_type
        if self.cells == NULL:
            raise MemoryError()


cdef char *copy_row(Py_ssize_t length) except NULL:
    cdef char *row = <char *>malloc(length)  # LEAK: cy_leak_nested
    if row == NULL:
        raise MemoryError()
    row[0] = 1
    return row


def leak_nested():
    copy_row(56)


cdef class FreedTable:
    """The twin of Table: frees in __dealloc__."""

    cdef double *cells

    def __cinit__(self, Py_ssize_t count):
        self.cells = <double *>malloc(count * sizeof(double))
        if self.cells == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.cells)


def twin_malloc():
    cdef char *samples = <char *>malloc(100)
    if samples == NULL:
        raise MemoryError()
    samples[0] = 1
    free(samples)


def twin_list():
    cdef list rows = []
    rows.append(len(rows))


def twin_error_path(long size):
    """Raises ValueError for a size that is not even, after the free."""
    cdef char *scratch = <char *>malloc(120)
    if scratch == NULL:
        raise MemoryError()
    try:
        if size % 2:
            raise ValueError("size is odd")
    finally:
        free(scratch)


cdef class Named:
    """The collector is not told of the attribute: a text cannot be part of a cycle."""
    cdef str name

    def __init__(self, name):
        self.name = name

    def leak_name(self):
        Py_INCREF(self.name)  # LEAK: cy_leak_name
        return self.name

    def twin_name(self):
        return self.name


def leak_reference(argument):
    Py_INCREF(argument)  # LEAK: cy_leak_reference


def leak_buffer(argument):
    cdef Py_buffer view
    PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE)  # LEAK: cy_leak_buffer


def release_argument(argument):
    Py_DECREF(argument)  # OVER-RELEASE: cy_release_argument


def twin_buffer(argument):
    cdef Py_buffer view
    PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE)
    PyBuffer_Release(&view)
