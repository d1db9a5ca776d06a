/* Leaks that come every nth call, or at random. Each loses 100 bytes. */
#include "zoo.h"

static PyObject *leak_every_call(NOARGS)
{
    void *volatile block = malloc(100); /* LEAK: leak_every_call */
    return zoo_done(block);
}

static PyObject *leak_every_10th(NOARGS)
{
    static unsigned long calls;
    void *volatile block = malloc(100); /* LEAK: leak_every_10th */
    if (block == NULL)
        return PyErr_NoMemory();
    if (++calls % 10 != 0)
        free(block);
    Py_RETURN_NONE;
}

static PyObject *leak_every_50th(NOARGS)
{
    static unsigned long calls;
    void *volatile block = malloc(100); /* LEAK: leak_every_50th */
    if (block == NULL)
        return PyErr_NoMemory();
    if (++calls % 50 != 0)
        free(block);
    Py_RETURN_NONE;
}

static PyObject *leak_every_300th(NOARGS)
{
    static unsigned long calls;
    void *volatile block = malloc(100); /* LEAK: leak_every_300th */
    if (block == NULL)
        return PyErr_NoMemory();
    if (++calls % 300 != 0)
        free(block);
    Py_RETURN_NONE;
}

/* Loses its block on one call in 50 on average; the sequence is the same in
 * every process. */
static PyObject *leak_random_1_in_50(NOARGS)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    void *volatile block = malloc(100); /* LEAK: leak_random_1_in_50 */
    if (block == NULL)
        return PyErr_NoMemory();
    if ((zoo_random(&state) >> 16) % 50 != 0)
        free(block);
    Py_RETURN_NONE;
}

/* Allocates only on the call that leaks, so most calls show no activity. */
static PyObject *leak_silent_10th(NOARGS)
{
    static unsigned long calls;
    if (++calls % 10 != 0)
        Py_RETURN_NONE;
    void *volatile block = malloc(100); /* LEAK: leak_silent_10th */
    return zoo_done(block);
}

PyMethodDef zoo_rhythm_methods[] = {
    {"leak_every_call", leak_every_call, METH_NOARGS, NULL},
    {"leak_every_10th", leak_every_10th, METH_NOARGS, NULL},
    {"leak_every_50th", leak_every_50th, METH_NOARGS, NULL},
    {"leak_every_300th", leak_every_300th, METH_NOARGS, NULL},
    {"leak_random_1_in_50", leak_random_1_in_50, METH_NOARGS, NULL},
    {"leak_silent_10th", leak_silent_10th, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
