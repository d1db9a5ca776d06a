/* What the sources of the extension module `zoo` share.
 *
 * One file per kind of misbehaviour; each hands its method table to zoo.c.
 * Every counter and every random stream is a static with a fixed start, so a
 * fresh process always does the same thing. */
#ifndef ZOO_H
#define ZOO_H

#include <pyconfig.h> /* Says whether the interpreter has a GIL. */

/* The stable ABI of CPython 3.9: one .so for every later version (PEP 384), without a GIL for none. */
#if !defined(Py_LIMITED_API) && !defined(Py_GIL_DISABLED)
#define Py_LIMITED_API 0x03090000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* First: it defines _GNU_SOURCE, for asprintf and others. */

#include <stdint.h>
#include <stdlib.h>

/* Counts the reference, whatever the headers: those of 3.12 and later take None
 * for immortal, which it is not on the older interpreters that load the .so. */
#undef Py_RETURN_NONE
#define Py_RETURN_NONE return Py_INCREF(Py_None), Py_None

/* The parameters of a METH_NOARGS function that uses neither. */
#define NOARGS PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)

/* A helper that must stay a frame of its own on the call stack. */
#if defined(__clang__)
#define ZOO_FRAME __attribute__((noinline))
#else
#define ZOO_FRAME __attribute__((noinline, noclone))
#endif

/* A helper that must not be a frame of its own. */
#define ZOO_INLINED inline __attribute__((always_inline))

/* A module that does not have the GIL switched on, where there is a switch. */
static inline PyObject *zoo_module_create(struct PyModuleDef *definition)
{
    PyObject *module = PyModule_Create(definition);
#ifdef Py_GIL_DISABLED
    if (module != NULL)
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}

/* None, or MemoryError when `block` is NULL. */
PyObject *zoo_done(void *block);

extern PyMethodDef zoo_native_methods[];
extern PyMethodDef zoo_rhythm_methods[];
extern PyMethodDef zoo_object_methods[];
extern PyMethodDef zoo_thread_methods[];
extern PyMethodDef zoo_noise_methods[];
extern PyMethodDef zoo_bounded_methods[];
extern PyMethodDef zoo_churn_methods[];

/* Adds the heap types of zoo_objects.c to the module; -1 on error. */
int zoo_add_types(PyObject *module);

/* Marsaglia's xorshift64 (J. Statistical Software 8(14), 2003): deterministic,
 * and the same on every C library. `state` must not be zero. */
static inline uint64_t zoo_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A size in [24, 24 + span): never the 16 bytes that leaks beside noise lose. */
static inline size_t zoo_random_size(uint64_t *state, size_t span)
{
    return 24 + (size_t)(zoo_random(state) >> 16) % span;
}

#endif
