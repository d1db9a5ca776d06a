/* Miscounted references to what the module or the interpreter has itself:
 * constants, singletons, types, exceptions; and new objects that are lost. */
#include "zoo_refs.h"

/* Reachable from this static alone: neither a module nor a container has it. */
static PyObject *hidden_token;

/* Ints from -5 to 256 exist once (Objects/longobject.c). */
static PyObject *small_int;

/* Two types whose instances forget their type: the second is in the module. */

static PyObject *ticket_type;
static PyObject *session_type;

/* A heap type's instance owns its type (CPython 3.8), and must release it. */
static void forgetful_dealloc(PyObject *self)
{
    freefunc type_free = (freefunc)PyType_GetSlot(Py_TYPE(self), Py_tp_free);
    type_free(self); /* LEAK: forgetful_dealloc */
}

static void careful_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc type_free = (freefunc)PyType_GetSlot(type, Py_tp_free);
    type_free(self);
    Py_DECREF(type);
}

static PyObject *careful_type;

static PyObject *make_type(const char *name, destructor dealloc)
{
    PyType_Slot slots[] = {{Py_tp_dealloc, dealloc}, {0, NULL}};
    PyType_Spec spec = {
        .name = name, /* A literal: types before 3.11 keep the pointer. */
        .basicsize = sizeof(PyObject),
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
        .slots = slots,
    };
    return PyType_FromSpec(&spec);
}

int zoo_refs_add_objects(PyObject *module)
{
    hidden_token = PyBytes_FromString("the hidden token");
    ticket_type = make_type("zoo_refs.Ticket", forgetful_dealloc);
    session_type = make_type("zoo_refs.Session", forgetful_dealloc);
    careful_type = make_type("zoo_refs.Careful", careful_dealloc);
    small_int = PyLong_FromLong(7);
    if (hidden_token == NULL || small_int == NULL)
        return -1;
    if (ticket_type == NULL || session_type == NULL || careful_type == NULL)
        return -1;
    Py_INCREF(session_type); /* The static keeps its own. */
    return PyModule_AddObject(module, "Session", session_type);
}

/* Makes an instance and drops it. */
static PyObject *make_and_drop(PyObject *type)
{
    PyObject *object = PyType_GenericAlloc((PyTypeObject *)type, 0);
    if (object == NULL)
        return NULL;
    Py_DECREF(object);
    Py_RETURN_NONE;
}

static PyObject *leak_hidden_type(NOARGS)
{
    return make_and_drop(ticket_type);
}

static PyObject *leak_module_type(NOARGS)
{
    return make_and_drop(session_type);
}

static PyObject *twin_type(NOARGS)
{
    return make_and_drop(careful_type);
}

static PyObject *leak_hidden(NOARGS)
{
    Py_INCREF(hidden_token); /* LEAK: leak_hidden */
    Py_RETURN_NONE;
}

/* The addresses that only this file knows, for the measurement. */
static PyObject *addresses(NOARGS)
{
    return Py_BuildValue(
        "{s:n,s:n,s:n}", "token", (Py_ssize_t)hidden_token, "Ticket", (Py_ssize_t)ticket_type, "Careful",
        (Py_ssize_t)careful_type);
}

/* The result is new to the caller, so one reference is right and two are not. */
static PyObject *leak_defaults(NOARGS)
{
    Py_INCREF(zoo_refs_defaults);
    Py_INCREF(zoo_refs_defaults); /* LEAK: leak_defaults */
    return zoo_refs_defaults;
}

static PyObject *twin_defaults(NOARGS)
{
    Py_INCREF(zoo_refs_defaults);
    return zoo_refs_defaults;
}

/* Raises Error for a size above the limit, and leaves without the Py_DECREF. */
static PyObject *leak_limits_on_error(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *limits = zoo_refs_limits;
    Py_INCREF(limits); /* LEAK: leak_limits_on_error */
    int above = PyObject_RichCompareBool(argument, PyTuple_GetItem(limits, 1), Py_GT);
    if (above < 0 || above) {
        if (above > 0)
            PyErr_SetString(zoo_refs_error, "above the limit");
        return NULL;
    }
    Py_DECREF(limits);
    Py_RETURN_NONE;
}

static PyObject *twin_limits_on_error(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *limits = zoo_refs_limits;
    Py_INCREF(limits);
    int above = PyObject_RichCompareBool(argument, PyTuple_GetItem(limits, 1), Py_GT);
    Py_DECREF(limits);
    if (above > 0)
        PyErr_SetString(zoo_refs_error, "above the limit");
    if (above != 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Singletons: immortal from CPython 3.12 on (PEP 683). */

static PyObject *leak_none(NOARGS)
{
    Py_INCREF(Py_None); /* LEAK: leak_none */
    Py_RETURN_NONE;
}

static PyObject *leak_true(NOARGS)
{
    Py_INCREF(Py_True); /* LEAK: leak_true */
    Py_RETURN_NONE;
}

static PyObject *leak_small_int(NOARGS)
{
    Py_INCREF(small_int); /* LEAK: leak_small_int */
    Py_RETURN_NONE;
}

static PyObject *release_none(NOARGS)
{
    return Py_None; /* OVER-RELEASE: release_none */
}

static PyObject *release_true(NOARGS)
{
    Py_DECREF(Py_True); /* OVER-RELEASE: release_true */
    Py_RETURN_NONE;
}

/* The table of interned strings does not count as an owner, each caller does. */
static PyObject *leak_interned(NOARGS)
{
    PyObject *volatile lost = PyUnicode_InternFromString("zoo_refs.interned"); /* LEAK: leak_interned */
    if (lost == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* Not shared with leak_interned, so that here the count stays where it was. */
static PyObject *twin_interned(NOARGS)
{
    static PyObject *kept;
    if (kept == NULL)
        kept = PyUnicode_InternFromString("zoo_refs.kept");
    PyObject *name = PyUnicode_InternFromString("zoo_refs.kept");
    Py_XDECREF(name);
    if (kept == NULL || name == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* Takes the current exception apart and gives back two of its three parts. */
static PyObject *fetch_and_lose(PyObject *raised, int value_too)
{
    PyObject *type, *value, *traceback;
    PyErr_SetNone(raised);
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    Py_XDECREF(traceback);
    if (value_too)
        Py_XDECREF(value);
    else
        Py_XDECREF(type);
    Py_RETURN_NONE;
}

static PyObject *leak_exception_object(NOARGS)
{
    return fetch_and_lose(zoo_refs_error, 0); /* LEAK: leak_exception_object */
}

static PyObject *leak_exception_type(NOARGS)
{
    return fetch_and_lose(zoo_refs_error, 1); /* LEAK: leak_exception_type */
}

static PyObject *leak_builtin_exception_type(NOARGS)
{
    return fetch_and_lose(PyExc_ValueError, 1); /* LEAK: leak_builtin_exception_type */
}

static PyObject *twin_raises(NOARGS)
{
    PyErr_SetString(zoo_refs_error, "always");
    return NULL;
}

/* New objects: what is lost costs memory. */

static PyObject *leak_appended(NOARGS)
{
    PyObject *list = PyList_New(0);
    PyObject *item = PyLong_FromUnsignedLongLong(1ULL << 62); /* LEAK: leak_appended */
    if (list == NULL || item == NULL || PyList_Append(list, item) < 0)
        return NULL;
    return list; /* The append took a reference of its own. */
}

static PyObject *leak_dict_entry(NOARGS)
{
    PyObject *dict = PyDict_New();
    PyObject *value = PyFloat_FromDouble(1.5); /* LEAK: leak_dict_entry */
    if (dict == NULL || value == NULL || PyDict_SetItemString(dict, "ratio", value) < 0)
        return NULL;
    return dict;
}

/* "O" takes a reference of its own, "N" would take over. */
static PyObject *leak_built(NOARGS)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, 100); /* LEAK: leak_built */
    return bytes == NULL ? NULL : Py_BuildValue("(O)", bytes);
}

static PyObject *twin_built(NOARGS)
{
    PyObject *list = PyList_New(0);
    PyObject *item = PyLong_FromUnsignedLongLong(1ULL << 62);
    if (list != NULL && item != NULL && PyList_Append(list, item) == 0)
        return Py_BuildValue("(NN)", list, item);
    Py_XDECREF(list);
    Py_XDECREF(item);
    return NULL;
}

PyMethodDef zoo_refs_objects[] = {
    {"leak_hidden_type", leak_hidden_type, METH_NOARGS, NULL},
    {"leak_module_type", leak_module_type, METH_NOARGS, NULL},
    {"leak_hidden", leak_hidden, METH_NOARGS, NULL},
    {"leak_defaults", leak_defaults, METH_NOARGS, NULL},
    {"leak_limits_on_error", leak_limits_on_error, METH_O, NULL},
    {"leak_none", leak_none, METH_NOARGS, NULL},
    {"leak_true", leak_true, METH_NOARGS, NULL},
    {"leak_small_int", leak_small_int, METH_NOARGS, NULL},
    {"leak_interned", leak_interned, METH_NOARGS, NULL},
    {"leak_exception_object", leak_exception_object, METH_NOARGS, NULL},
    {"leak_exception_type", leak_exception_type, METH_NOARGS, NULL},
    {"leak_builtin_exception_type", leak_builtin_exception_type, METH_NOARGS, NULL},
    {"leak_appended", leak_appended, METH_NOARGS, NULL},
    {"leak_dict_entry", leak_dict_entry, METH_NOARGS, NULL},
    {"leak_built", leak_built, METH_NOARGS, NULL},
    {"release_none", release_none, METH_NOARGS, NULL},
    {"release_true", release_true, METH_NOARGS, NULL},
    {"twin_type", twin_type, METH_NOARGS, NULL},
    {"twin_defaults", twin_defaults, METH_NOARGS, NULL},
    {"twin_limits_on_error", twin_limits_on_error, METH_O, NULL},
    {"twin_interned", twin_interned, METH_NOARGS, NULL},
    {"twin_raises", twin_raises, METH_NOARGS, NULL},
    {"twin_built", twin_built, METH_NOARGS, NULL},
    {"addresses", addresses, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
