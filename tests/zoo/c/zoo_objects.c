/* Leaks of Python objects: a reference is made and never given back. */
#include "zoo.h"

/* A type without GC support: a cycle through it is never collected. */

typedef struct {
    PyObject_HEAD
    PyObject *other;
} Node;

static void node_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc type_free = (freefunc)PyType_GetSlot(type, Py_tp_free);
    Py_XDECREF(((Node *)self)->other);
    type_free(self);
    Py_DECREF(type); /* Heap type instances own their type (CPython 3.8). */
}

static PyType_Slot node_slots[] = {
    {Py_tp_dealloc, node_dealloc},
    {0, NULL},
};

static PyType_Spec node_spec = {
    .name = "zoo.Node",
    .basicsize = sizeof(Node),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = node_slots,
};

/* The same with GC support. */

typedef struct {
    PyObject_HEAD
    PyObject *held;
} Holder;

static int holder_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(((Holder *)self)->held);
    Py_VISIT(Py_TYPE(self)); /* Required since CPython 3.9. */
    return 0;
}

static int holder_clear(PyObject *self)
{
    Py_CLEAR(((Holder *)self)->held);
    return 0;
}

static void holder_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc type_free = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyObject_GC_UnTrack(self);
    holder_clear(self);
    type_free(self);
    Py_DECREF(type);
}

static PyType_Slot holder_slots[] = {
    {Py_tp_dealloc, holder_dealloc},
    {Py_tp_traverse, holder_traverse},
    {Py_tp_clear, holder_clear},
    {0, NULL},
};

static PyType_Spec holder_spec = {
    .name = "zoo.Holder",
    .basicsize = sizeof(Holder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = holder_slots,
};

static PyTypeObject *node_type;
static PyTypeObject *holder_type;

int zoo_add_types(PyObject *module)
{
    node_type = (PyTypeObject *)PyType_FromSpec(&node_spec);
    holder_type = (PyTypeObject *)PyType_FromSpec(&holder_spec);
    if (node_type == NULL || holder_type == NULL)
        return -1;
    /* PyModule_AddObject takes over a reference; the statics keep their own. */
    Py_INCREF(node_type);
    Py_INCREF(holder_type);
    if (PyModule_AddObject(module, "Node", (PyObject *)node_type) < 0)
        return -1;
    return PyModule_AddObject(module, "Holder", (PyObject *)holder_type);
}

/* None, and the reference to `object` is lost; NULL passes an error on. */
static PyObject *lose(PyObject *object)
{
    PyObject *volatile lost = object;
    if (lost == NULL)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *leak_list(NOARGS)
{
    PyObject *list = PyList_New(0); /* LEAK: leak_list */
    return lose(list);
}

static PyObject *leak_dict(NOARGS)
{
    PyObject *dict = PyDict_New(); /* LEAK: leak_dict */
    PyObject *value = PyLong_FromLong(1000000);
    if (dict == NULL || value == NULL || PyDict_SetItemString(dict, "count", value) < 0)
        return NULL;
    Py_DECREF(value);
    return lose(dict);
}

static PyObject *leak_tuple(NOARGS)
{
    PyObject *tuple = PyTuple_New(2); /* LEAK: leak_tuple */
    if (tuple == NULL)
        return NULL;
    PyTuple_SetItem(tuple, 0, PyLong_FromLong(1)); /* Small ints are shared. */
    PyTuple_SetItem(tuple, 1, PyLong_FromLong(2));
    return lose(tuple);
}

static PyObject *leak_str(NOARGS)
{
    static unsigned calls;
    PyObject *text = PyUnicode_FromFormat("request %08u", calls++ % 100000000u); /* LEAK: leak_str */
    return lose(text);
}

static PyObject *leak_bytes(NOARGS)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, 100); /* LEAK: leak_bytes */
    return lose(bytes);
}

static PyObject *leak_int(NOARGS)
{
    PyObject *number = PyLong_FromUnsignedLongLong(1ULL << 62); /* LEAK: leak_int */
    return lose(number);
}

static PyObject *leak_float(NOARGS)
{
    PyObject *number = PyFloat_FromDouble(1.5); /* LEAK: leak_float */
    return lose(number);
}

static PyObject *leak_exception(NOARGS)
{
    PyObject *error = PyObject_CallFunction(PyExc_ValueError, "s", "never raised"); /* LEAK: leak_exception */
    return lose(error);
}

/* The last reference is given back, and the cycle still keeps the object. */
static PyObject *leak_self_cycle(NOARGS)
{
    PyObject *node = PyType_GenericAlloc(node_type, 0); /* LEAK: leak_self_cycle */
    if (node == NULL)
        return NULL;
    Py_INCREF(node);
    ((Node *)node)->other = node;
    Py_DECREF(node);
    Py_RETURN_NONE;
}

static PyObject *leak_gc_instance(NOARGS)
{
    PyObject *holder = PyType_GenericAlloc(holder_type, 0); /* LEAK: leak_gc_instance */
    return lose(holder);
}

/* A reference too many to an object that the caller made: the allocation is in
 * Python, the mistake is here. */
static PyObject *leak_argument(PyObject *Py_UNUSED(module), PyObject *argument)
{
    Py_INCREF(argument); /* LEAK: leak_argument */
    Py_RETURN_NONE;
}

/* The twins. */

/* The same cycle through a type with GC support: the collector frees it. */
static PyObject *twin_self_cycle(NOARGS)
{
    PyObject *holder = PyType_GenericAlloc(holder_type, 0);
    if (holder == NULL)
        return NULL;
    Py_INCREF(holder);
    ((Holder *)holder)->held = holder;
    Py_DECREF(holder);
    Py_RETURN_NONE;
}

/* One of each kind of object that a leak_ function loses, given back. */
static PyObject *twin_objects(NOARGS)
{
    PyObject *objects[] = {
        PyList_New(0),
        Py_BuildValue("{s:i}", "count", 1000000),
        Py_BuildValue("(ii)", 1, 2),
        PyUnicode_FromFormat("request %08u", 7u),
        PyBytes_FromStringAndSize(NULL, 100),
        PyLong_FromUnsignedLongLong(1ULL << 62),
        PyFloat_FromDouble(1.5),
        PyObject_CallFunction(PyExc_ValueError, "s", "never raised"),
        PyType_GenericAlloc(node_type, 0),
        PyType_GenericAlloc(holder_type, 0),
    };
    for (size_t i = 0; i < sizeof objects / sizeof objects[0]; i++)
        Py_XDECREF(objects[i]);
    return PyErr_Occurred() ? NULL : Py_BuildValue("");
}

/* Takes a reference to its argument and drops that of the previous call. */
static PyObject *twin_argument(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static PyObject *latest;
    PyObject *previous = latest;
    Py_INCREF(argument);
    latest = argument;
    Py_XDECREF(previous);
    Py_RETURN_NONE;
}

PyMethodDef zoo_object_methods[] = {
    {"leak_list", leak_list, METH_NOARGS, NULL},
    {"leak_dict", leak_dict, METH_NOARGS, NULL},
    {"leak_tuple", leak_tuple, METH_NOARGS, NULL},
    {"leak_str", leak_str, METH_NOARGS, NULL},
    {"leak_bytes", leak_bytes, METH_NOARGS, NULL},
    {"leak_int", leak_int, METH_NOARGS, NULL},
    {"leak_float", leak_float, METH_NOARGS, NULL},
    {"leak_exception", leak_exception, METH_NOARGS, NULL},
    {"leak_self_cycle", leak_self_cycle, METH_NOARGS, NULL},
    {"leak_gc_instance", leak_gc_instance, METH_NOARGS, NULL},
    {"leak_argument", leak_argument, METH_O, NULL},
    {"twin_self_cycle", twin_self_cycle, METH_NOARGS, NULL},
    {"twin_objects", twin_objects, METH_NOARGS, NULL},
    {"twin_argument", twin_argument, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
