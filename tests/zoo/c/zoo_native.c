/* Leaks of native memory: one allocator, one code path each. */
#include "zoo.h"

#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The allocators. A block is held in a `void *volatile` so that the compiler
 * cannot prove the allocation unused and delete it. */

static PyObject *leak_malloc(NOARGS)
{
    void *volatile block = malloc(100); /* LEAK: leak_malloc */
    return zoo_done(block);
}

static PyObject *leak_calloc(NOARGS)
{
    void *volatile block = calloc(4, 25); /* LEAK: leak_calloc */
    return zoo_done(block);
}

static PyObject *leak_realloc_null(NOARGS)
{
    void *volatile block = realloc(NULL, 72); /* LEAK: leak_realloc_null */
    return zoo_done(block);
}

static PyObject *leak_reallocarray(NOARGS)
{
    void *volatile block = reallocarray(NULL, 10, 12); /* LEAK: leak_reallocarray */
    return zoo_done(block);
}

static PyObject *leak_strdup(NOARGS)
{
    void *volatile block = strdup("x: y"); /* LEAK: leak_strdup */
    return zoo_done(block);
}

static PyObject *leak_asprintf(NOARGS)
{
    char *text = NULL;
    int length = asprintf(&text, "%s=%d", "max-age", 86400); /* LEAK: leak_asprintf */
    void *volatile block = length < 0 ? NULL : text;
    return zoo_done(block);
}

static PyObject *leak_posix_memalign(NOARGS)
{
    void *memory = NULL;
    int error = posix_memalign(&memory, 64, 128); /* LEAK: leak_posix_memalign */
    void *volatile block = error ? NULL : memory;
    return zoo_done(block);
}

static PyObject *leak_aligned_alloc(NOARGS)
{
    void *volatile block = aligned_alloc(64, 192); /* LEAK: leak_aligned_alloc */
    return zoo_done(block);
}

static PyObject *leak_memalign(NOARGS)
{
    void *volatile block = memalign(32, 96); /* LEAK: leak_memalign */
    return zoo_done(block);
}

static PyObject *leak_mmap(NOARGS)
{
    size_t page = (size_t)getpagesize();
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *volatile block = mmap(NULL, page, PROT_READ | PROT_WRITE, flags, -1, 0); /* LEAK: leak_mmap */
    return zoo_done(block == MAP_FAILED ? NULL : block);
}

/* CPython's own allocators, used for raw blocks. */

/* Exported by every CPython since 3.4, in the stable ABI only since 3.13. */
PyAPI_FUNC(void *) PyMem_RawMalloc(size_t size);

static PyObject *leak_pymem_raw(NOARGS)
{
    void *volatile block = PyMem_RawMalloc(64); /* LEAK: leak_pymem_raw */
    return zoo_done(block);
}

static PyObject *leak_pymem(NOARGS)
{
    void *volatile block = PyMem_Malloc(80); /* LEAK: leak_pymem */
    return zoo_done(block);
}

static PyObject *leak_pyobject_malloc(NOARGS)
{
    void *volatile block = PyObject_Malloc(96); /* LEAK: leak_pyobject_malloc */
    return zoo_done(block);
}

/* Larger than pymalloc's 512 byte limit (Objects/obmalloc.c,
 * SMALL_REQUEST_THRESHOLD): falls through to malloc under any PYTHONMALLOC. */
static PyObject *leak_pymem_large(NOARGS)
{
    void *volatile block = PyMem_Malloc(600); /* LEAK: leak_pymem_large */
    return zoo_done(block);
}

/* Call stacks. */

ZOO_FRAME static char *copy_field(const char *text)
{
    char *volatile field = strdup(text); /* LEAK: parse_header */
    return field;
}

ZOO_FRAME static int split_header(const char *line, Py_ssize_t *value_offset)
{
    char *name = copy_field(line);
    char *colon = name == NULL ? NULL : strchr(name, ':');
    if (colon == NULL)
        return -1;
    *value_offset = colon + 2 - name;
    return 0;
}

/* parse_header(b"name: value") -> offset of the value. */
static PyObject *parse_header(PyObject *Py_UNUSED(module), PyObject *line)
{
    Py_ssize_t value_offset = 0;
    const char *text = PyBytes_AsString(line);
    if (text == NULL)
        return NULL;
    if (split_header(text, &value_offset) < 0) {
        PyErr_SetString(PyExc_ValueError, "header has no colon");
        return NULL;
    }
    return PyLong_FromSsize_t(value_offset);
}

ZOO_FRAME static void *allocate_session(void)
{
    void *volatile session = malloc(256); /* LEAK: leak_nested */
    return session;
}

ZOO_FRAME static void *open_session(void)
{
    void *volatile session = allocate_session();
    return session;
}

static PyObject *leak_nested(NOARGS)
{
    return zoo_done(open_session());
}

static ZOO_INLINED void *duplicate_label(void)
{
    void *volatile label = malloc(40); /* LEAK: leak_inlined */
    return label;
}

static PyObject *leak_inlined(NOARGS)
{
    return zoo_done(duplicate_label());
}

ZOO_FRAME static void *descend(int depth)
{
    void *volatile leaf;
    if (depth == 0)
        leaf = malloc(24); /* LEAK: leak_recursive */
    else
        leaf = descend(depth - 1);
    return leaf;
}

static PyObject *leak_recursive(NOARGS)
{
    return zoo_done(descend(40));
}

/* Error paths. */

/* leak_error_path() raises ValueError, and loses its scratch buffer. */
static PyObject *leak_error_path(NOARGS)
{
    void *volatile scratch = malloc(112); /* LEAK: leak_error_path */
    if (scratch == NULL)
        return PyErr_NoMemory();
    PyErr_SetString(PyExc_ValueError, "bad input");
    return NULL;
}

/* twin_error_path() raises ValueError as well, and frees first. */
static PyObject *twin_error_path(NOARGS)
{
    void *volatile scratch = malloc(112);
    if (scratch == NULL)
        return PyErr_NoMemory();
    free(scratch);
    PyErr_SetString(PyExc_ValueError, "bad input");
    return NULL;
}

/* Memory that stays reachable and grows without bound. */

/* One block, 16 bytes longer on each call. */
static PyObject *leak_growing_buffer(NOARGS)
{
    static char *journal;
    static size_t journal_bytes;
    char *longer = realloc(journal, journal_bytes + 16); /* LEAK: leak_growing_buffer */
    if (longer == NULL)
        return PyErr_NoMemory();
    journal = longer;
    memset(journal + journal_bytes, 0, 16);
    journal_bytes += 16;
    Py_RETURN_NONE;
}

static void **registry;
static size_t registry_used;

/* Doubles the pointer array when it is full; -1 when out of memory. */
ZOO_FRAME static int registry_reserve(void)
{
    static size_t capacity;
    if (registry_used < capacity)
        return 0;
    size_t doubled = capacity == 0 ? 64 : capacity * 2;
    void **larger = realloc(registry, doubled * sizeof *larger);
    if (larger == NULL)
        return -1;
    registry = larger;
    capacity = doubled;
    return 0;
}

static PyObject *leak_registry(NOARGS)
{
    if (registry_reserve() < 0)
        return PyErr_NoMemory();
    void *volatile entry = malloc(32); /* LEAK: leak_registry */
    if (entry != NULL)
        registry[registry_used++] = entry;
    return zoo_done(entry);
}

PyMethodDef zoo_native_methods[] = {
    {"leak_malloc", leak_malloc, METH_NOARGS, NULL},
    {"leak_calloc", leak_calloc, METH_NOARGS, NULL},
    {"leak_realloc_null", leak_realloc_null, METH_NOARGS, NULL},
    {"leak_reallocarray", leak_reallocarray, METH_NOARGS, NULL},
    {"leak_strdup", leak_strdup, METH_NOARGS, NULL},
    {"leak_asprintf", leak_asprintf, METH_NOARGS, NULL},
    {"leak_posix_memalign", leak_posix_memalign, METH_NOARGS, NULL},
    {"leak_aligned_alloc", leak_aligned_alloc, METH_NOARGS, NULL},
    {"leak_memalign", leak_memalign, METH_NOARGS, NULL},
    {"leak_mmap", leak_mmap, METH_NOARGS, NULL},
    {"leak_pymem_raw", leak_pymem_raw, METH_NOARGS, NULL},
    {"leak_pymem", leak_pymem, METH_NOARGS, NULL},
    {"leak_pymem_large", leak_pymem_large, METH_NOARGS, NULL},
    {"leak_pyobject_malloc", leak_pyobject_malloc, METH_NOARGS, NULL},
    {"parse_header", parse_header, METH_O, NULL},
    {"leak_nested", leak_nested, METH_NOARGS, NULL},
    {"leak_inlined", leak_inlined, METH_NOARGS, NULL},
    {"leak_recursive", leak_recursive, METH_NOARGS, NULL},
    {"leak_error_path", leak_error_path, METH_NOARGS, NULL},
    {"twin_error_path", twin_error_path, METH_NOARGS, NULL},
    {"leak_growing_buffer", leak_growing_buffer, METH_NOARGS, NULL},
    {"leak_registry", leak_registry, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
