/* Twins that give everything back before they return. */
#include "zoo.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static PyObject *twin_malloc(NOARGS)
{
    void *volatile block = malloc(100);
    PyObject *result = zoo_done(block);
    free(block);
    return result;
}

static PyObject *twin_strdup(NOARGS)
{
    char *volatile copy = strdup("x: y");
    PyObject *result = zoo_done(copy);
    free(copy);
    return result;
}

static PyObject *twin_pymem(NOARGS)
{
    void *volatile memory = PyMem_Malloc(80);
    void *volatile object = PyObject_Malloc(96);
    PyObject *result = memory == NULL ? zoo_done(NULL) : zoo_done(object);
    PyObject_Free(object);
    PyMem_Free(memory);
    return result;
}

/* Allocates up to 32 blocks of random sizes and frees them in random order. */
static PyObject *twin_fragmenting(NOARGS)
{
    static uint64_t random = 0x853c49e6748fea9b;
    void *blocks[32];
    size_t count = 1 + (zoo_random(&random) >> 16) % 32;
    for (size_t i = 0; i < count; i++)
        blocks[i] = malloc(zoo_random_size(&random, 8000));
    while (count > 0) {
        size_t chosen = (zoo_random(&random) >> 16) % count;
        free(blocks[chosen]);
        blocks[chosen] = blocks[--count];
    }
    Py_RETURN_NONE;
}

static PyObject *twin_mmap(NOARGS)
{
    size_t page = (size_t)getpagesize();
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *pages = mmap(NULL, page, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED || munmap(pages, page) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

/* Maps four pages and unmaps the second, the fourth, the first and the third. */
static PyObject *twin_mmap_pieces(NOARGS)
{
    size_t page = (size_t)getpagesize();
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *pages = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (pages == MAP_FAILED)
        return PyErr_SetFromErrno(PyExc_OSError);
    if (munmap(pages + page, page) < 0 || munmap(pages + 3 * page, page) < 0 ||
        munmap(pages, page) < 0 || munmap(pages + 2 * page, page) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

PyMethodDef zoo_churn_methods[] = {
    {"twin_malloc", twin_malloc, METH_NOARGS, NULL},
    {"twin_strdup", twin_strdup, METH_NOARGS, NULL},
    {"twin_pymem", twin_pymem, METH_NOARGS, NULL},
    {"twin_fragmenting", twin_fragmenting, METH_NOARGS, NULL},
    {"twin_mmap", twin_mmap, METH_NOARGS, NULL},
    {"twin_mmap_pieces", twin_mmap_pieces, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
