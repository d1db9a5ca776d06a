/* Functions that keep the references they take, for a while or for ever: the
 * count of the argument moves, and somebody holds every one of them.
 * Some places are open to the garbage collector, most are not. */
#include "zoo_refs.h"

/* KEPT: a dict of the module, where stored_in_module puts its argument. */
static PyObject *kept;

/* A type with GC support that shows all it holds, and one that hides its type. */

typedef struct {
    PyObject_HEAD
    PyObject *held;
} Keeper;

static int keeper_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((Keeper *)self)->held);
    Py_VISIT(Py_TYPE(self)); /* Required since CPython 3.9. */
    return 0;
}

static int shy_keeper_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((Keeper *)self)->held);
    return 0;
}

static int keeper_clear(PyObject *self)
{
    Py_CLEAR(((Keeper *)self)->held);
    return 0;
}

static void keeper_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc type_free = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyObject_GC_UnTrack(self);
    keeper_clear(self);
    type_free(self);
    Py_DECREF(type);
}

static PyObject *keeper_type;
static PyObject *shy_keeper_type;

static PyObject *make_type(const char *name, traverseproc traverse)
{
    PyType_Slot slots[] = {
        {Py_tp_dealloc, keeper_dealloc},
        {Py_tp_traverse, traverse},
        {Py_tp_clear, keeper_clear},
        {0, NULL},
    };
    PyType_Spec spec = {
        .name = name, /* A literal: types before 3.11 keep the pointer. */
        .basicsize = sizeof(Keeper),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
        .slots = slots,
    };
    return PyType_FromSpec(&spec);
}

int zoo_refs_add_stores(PyObject *module)
{
    kept = PyDict_New();
    keeper_type = make_type("zoo_refs.Keeper", keeper_traverse);
    shy_keeper_type = make_type("zoo_refs.ShyKeeper", shy_keeper_traverse);
    if (kept == NULL || keeper_type == NULL || shy_keeper_type == NULL)
        return -1;
    Py_INCREF(kept); /* The static keeps its own. */
    return PyModule_AddObject(module, "KEPT", kept);
}

static PyObject *make_keeper(PyObject *type, PyObject *held)
{
    PyObject *keeper = PyType_GenericAlloc((PyTypeObject *)type, 0);
    if (keeper == NULL)
        return NULL;
    Py_INCREF(held);
    ((Keeper *)keeper)->held = held;
    return keeper;
}

/* What these three return, the caller may drop or keep. */

static PyObject *twin_keeper(PyObject *Py_UNUSED(module), PyObject *argument)
{
    return make_keeper(keeper_type, argument);
}

static PyObject *twin_shy_keeper(PyObject *Py_UNUSED(module), PyObject *argument)
{
    return make_keeper(shy_keeper_type, argument);
}

static void release_capsule(PyObject *capsule)
{
    Py_DECREF((PyObject *)PyCapsule_GetPointer(capsule, "zoo_refs.held"));
}

static PyObject *twin_capsule(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *capsule = PyCapsule_New(argument, "zoo_refs.held", release_capsule);
    if (capsule != NULL)
        Py_INCREF(argument);
    return capsule;
}

/* Stores that grow for ever. */

static PyObject *stored_in_list(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *list, *item;
    if (!PyArg_ParseTuple(arguments, "OO", &list, &item) || PyList_Append(list, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stored_in_module(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static long calls;
    PyObject *number = PyLong_FromLong(++calls);
    int failed = number == NULL || PyDict_SetItem(kept, number, argument) < 0;
    Py_XDECREF(number);
    return failed ? NULL : Py_BuildValue("");
}

/* An array of words in C memory that doubles when it is full. */
typedef struct {
    uintptr_t *words;
    size_t length, room;
} Array;

static int array_append(Array *array, uintptr_t word)
{
    if (array->length == array->room) {
        size_t room = array->room ? 2 * array->room : 16;
        uintptr_t *words = realloc(array->words, room * sizeof *words);
        if (words == NULL)
            return -1;
        array->words = words;
        array->room = room;
    }
    array->words[array->length++] = word;
    return 0;
}

/* Takes a reference and stores it, with `tag` in the lowest bits of the word. */
static PyObject *store(Array *array, PyObject *object, uintptr_t tag)
{
    if (array_append(array, (uintptr_t)object | tag) < 0)
        return PyErr_NoMemory();
    Py_INCREF(object);
    Py_RETURN_NONE;
}

static PyObject *stored_in_registry(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static Array registry;
    return store(&registry, argument, 0);
}

static PyObject *stored_tagged(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static Array registry;
    return store(&registry, argument, 1);
}

/* A linked list of blocks: each reference stands in a block of its own. */
static PyObject *stored_in_chain(PyObject *Py_UNUSED(module), PyObject *argument)
{
    typedef struct Link {
        struct Link *next;
        PyObject *held;
    } Link;
    static Link *volatile first;
    Link *link = malloc(sizeof *link);
    if (link == NULL)
        return PyErr_NoMemory();
    Py_INCREF(argument);
    *link = (Link){first, argument};
    first = link;
    Py_RETURN_NONE;
}

/* Stores with a bound. */

/* Puts a reference to `object` into a slot, and drops the one that was there. */
static PyObject *replace(PyObject **slot, PyObject *object)
{
    PyObject *previous = *slot;
    Py_INCREF(object);
    *slot = object;
    Py_XDECREF(previous);
    Py_RETURN_NONE;
}

static PyObject *twin_latest(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *latest;
    return replace(&latest, argument);
}

static PyObject *twin_ring_64(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *ring[64];
    static unsigned calls;
    return replace(&ring[calls++ % 64], argument);
}

/* Takes a reference at each call until it has 500; calls beyond take none. */
static PyObject *twin_cache_500(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *volatile cache[500] __attribute__((used)); /* Or the stores are dropped. */
    static unsigned used;
    if (used < 500) {
        Py_INCREF(argument);
        cache[used++] = argument;
    }
    Py_RETURN_NONE;
}

/* Gives back all its references on every 200th call, as sqlite3 does with its cursors. */
static PyObject *twin_sawtooth_200(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *held[200];
    static unsigned used;
    Py_INCREF(argument);
    held[used++] = argument;
    if (used == 200) {
        for (; used > 0; used--)
            Py_DECREF(held[used - 1]);
    }
    Py_RETURN_NONE;
}

/* Takes 40 buffers and gives them back to a free list that keeps 32. */
static PyObject *twin_free_list(NOARGS)
{
    static PyObject *free_list[32];
    static unsigned used;
    PyObject *taken[40];
    for (unsigned i = 0; i < 40; i++) {
        taken[i] = used > 0 ? free_list[--used] : PyByteArray_FromStringAndSize(NULL, 64);
        if (taken[i] == NULL)
            return NULL;
    }
    for (unsigned i = 0; i < 40; i++) {
        if (used < 32)
            free_list[used++] = taken[i];
        else
            Py_DECREF(taken[i]);
    }
    Py_RETURN_NONE;
}

/* Remembers addresses without references; at most one of them is alive. Whoever
 * scans this static must not take its words for objects. */
static PyObject *twin_stale_pointers(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *volatile seen[16] __attribute__((used)); /* Or the stores are dropped. */
    static unsigned calls;
    seen[calls++ % 16] = argument;
    Py_RETURN_NONE;
}

PyMethodDef zoo_refs_twins[] = {
    {"twin_keeper", twin_keeper, METH_O, NULL},
    {"twin_shy_keeper", twin_shy_keeper, METH_O, NULL},
    {"twin_capsule", twin_capsule, METH_O, NULL},
    {"stored_in_list", stored_in_list, METH_VARARGS, NULL},
    {"stored_in_module", stored_in_module, METH_O, NULL},
    {"stored_in_registry", stored_in_registry, METH_O, NULL},
    {"stored_tagged", stored_tagged, METH_O, NULL},
    {"stored_in_chain", stored_in_chain, METH_O, NULL},
    {"twin_latest", twin_latest, METH_O, NULL},
    {"twin_ring_64", twin_ring_64, METH_O, NULL},
    {"twin_cache_500", twin_cache_500, METH_O, NULL},
    {"twin_sawtooth_200", twin_sawtooth_200, METH_O, NULL},
    {"twin_free_list", twin_free_list, METH_NOARGS, NULL},
    {"twin_stale_pointers", twin_stale_pointers, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
