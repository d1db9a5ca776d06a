/* Miscounted references to what the caller passes, and to what it leads to. */
#include "zoo_refs.h"

#include <string.h>

#ifdef Py_GIL_DISABLED
typedef Py_buffer Buffer;
#else
/* A Py_buffer and its function: part of the stable ABI since CPython 3.11, and
 * the same before (Include/cpython/object.h of 3.9). */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Buffer;

PyAPI_FUNC(int) PyObject_GetBuffer(PyObject *, Buffer *, int);
PyAPI_FUNC(void) PyBuffer_Release(Buffer *);
#endif

enum { BUFFER_SIMPLE = 0 }; /* PyBUF_SIMPLE. */

/* None, or NULL when `object` is NULL; its reference stays with the caller. */
static PyObject *done(PyObject *object)
{
    if (object == NULL)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *leak_passed(PyObject *Py_UNUSED(module), PyObject *argument)
{
    Py_INCREF(argument); /* LEAK: leak_passed */
    Py_RETURN_NONE;
}

/* An object that only this variable refers to, and that no collector knows. */
static PyObject *kept;

static PyObject *keep(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *old = kept;
    Py_INCREF(argument);
    kept = argument;
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

/* Memory that begins like a list, which is none: its items lie nowhere. */
static size_t *volatile looks_alike;

static PyObject *keep_look_alike(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    /* Two words for the collector, then count, type, size and items. */
    const size_t words[] = {0, 0, 3, (size_t)&PyList_Type, 3, 0x200001, 3, 0};
    size_t *block = malloc(sizeof words);
    if (block == NULL)
        return PyErr_NoMemory();
    memcpy(block, words, sizeof words);
    looks_alike = block + 2;
    Py_RETURN_NONE;
}

static PyObject *leak_kept(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    Py_INCREF(kept); /* LEAK: leak_kept */
    Py_RETURN_NONE;
}

/* The variable still points to where the object was. */
static PyObject *drop_kept(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    Py_DECREF(kept);
    Py_RETURN_NONE;
}

/* Loses memory in one of two lines. */
static PyObject *leak_at_line(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static void *volatile block;
    if (PyLong_AsLong(argument) == 1)
        block = malloc(40);
    else
        block = malloc(4000);
    block = NULL;
    Py_RETURN_NONE;
}

static PyObject *leak_second_passed(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *first, *second;
    if (!PyArg_ParseTuple(arguments, "OO", &first, &second))
        return NULL;
    Py_INCREF(second); /* LEAK: leak_second_passed */
    Py_RETURN_NONE;
}

static PyObject *leak_passed_10th(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static unsigned calls;
    if (++calls % 10 == 0)
        Py_INCREF(argument); /* LEAK: leak_passed_10th */
    Py_RETURN_NONE;
}

static PyObject *leak_type_of_passed(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *type = (PyObject *)Py_TYPE(argument);
    Py_INCREF(type); /* LEAK: leak_type_of_passed */
    return done(type);
}

/* PyDict_GetItem lends its result; whoever keeps it takes a reference. */
static PyObject *leak_dict_value(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *dict, *key;
    if (!PyArg_ParseTuple(arguments, "OO", &dict, &key))
        return NULL;
    PyObject *value = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(value); /* LEAK: leak_dict_value */
    return done(value);
}

static PyObject *leak_attribute(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *value = PyObject_GetAttrString(argument, "session"); /* LEAK: leak_attribute */
    return done(value);
}

static PyObject *leak_iterated(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *iterator = PyObject_GetIter(argument);
    if (iterator == NULL)
        return NULL;
    while (PyIter_Next(iterator) != NULL) /* LEAK: leak_iterated */
        ;
    Py_DECREF(iterator);
    return PyErr_Occurred() ? NULL : done(Py_None);
}

static PyObject *leak_callback_result(PyObject *Py_UNUSED(module), PyObject *callback)
{
    PyObject *result = PyObject_CallObject(callback, NULL); /* LEAK: leak_callback_result */
    return done(result);
}

/* For bytes the converter's result is the argument itself, with a reference. */
static PyObject *leak_path(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *path;
    if (!PyArg_ParseTuple(arguments, "O&", PyUnicode_FSConverter, &path)) /* LEAK: leak_path */
        return NULL;
    return done(path);
}

static PyObject *leak_buffer(PyObject *Py_UNUSED(module), PyObject *argument)
{
    Buffer buffer;
    if (PyObject_GetBuffer(argument, &buffer, BUFFER_SIMPLE) < 0) /* LEAK: leak_buffer */
        return NULL;
    return done(argument);
}

/* PyTuple_SetItem takes over a reference, which is the caller's here. */
static PyObject *release_stolen(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *tuple = PyTuple_New(1);
    if (tuple == NULL)
        return NULL;
    PyTuple_SetItem(tuple, 0, argument); /* OVER-RELEASE: release_stolen */
    Py_DECREF(tuple);
    Py_RETURN_NONE;
}

static PyObject *release_borrowed(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *item = PyList_GetItem(argument, 0);
    if (item == NULL)
        return NULL;
    Py_DECREF(item); /* OVER-RELEASE: release_borrowed */
    Py_RETURN_NONE;
}

static PyObject *release_passed_10th(PyObject *Py_UNUSED(module), PyObject *argument)
{
    static unsigned calls;
    if (++calls % 10 == 0)
        Py_DECREF(argument); /* OVER-RELEASE: release_passed_10th */
    Py_RETURN_NONE;
}

/* The twins. */

static PyObject *twin_dict_value(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *dict, *key;
    if (!PyArg_ParseTuple(arguments, "OO", &dict, &key))
        return NULL;
    PyObject *value = PyDict_GetItemWithError(dict, key);
    Py_XINCREF(value);
    return value;
}

static PyObject *twin_attribute(PyObject *Py_UNUSED(module), PyObject *argument)
{
    return PyObject_GetAttrString(argument, "session");
}

static PyObject *twin_iterated(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *iterator = PyObject_GetIter(argument), *item;
    if (iterator == NULL)
        return NULL;
    while ((item = PyIter_Next(iterator)) != NULL)
        Py_DECREF(item);
    Py_DECREF(iterator);
    return PyErr_Occurred() ? NULL : done(Py_None);
}

/* What the callback raises is dropped. */
static PyObject *twin_callback(PyObject *Py_UNUSED(module), PyObject *callback)
{
    PyObject *result = PyObject_CallObject(callback, NULL);
    if (result == NULL)
        PyErr_Clear();
    Py_XDECREF(result);
    Py_RETURN_NONE;
}

static PyObject *twin_path(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *path;
    if (!PyArg_ParseTuple(arguments, "O&", PyUnicode_FSConverter, &path))
        return NULL;
    return path;
}

static PyObject *twin_buffer(PyObject *Py_UNUSED(module), PyObject *argument)
{
    Buffer buffer;
    if (PyObject_GetBuffer(argument, &buffer, BUFFER_SIMPLE) < 0)
        return NULL;
    PyBuffer_Release(&buffer);
    Py_RETURN_NONE;
}

/* The argument twice in a tuple, and in a list by the function that takes over. */
static PyObject *twin_containers(PyObject *Py_UNUSED(module), PyObject *argument)
{
    PyObject *tuple = PyTuple_Pack(2, argument, argument);
    PyObject *list = PyList_New(1);
    if (tuple != NULL && list != NULL) {
        Py_INCREF(argument);
        PyList_SetItem(list, 0, argument);
        return Py_BuildValue("(NN)", tuple, list);
    }
    Py_XDECREF(tuple);
    Py_XDECREF(list);
    return NULL;
}

PyMethodDef zoo_refs_bugs[] = {
    {"leak_passed", leak_passed, METH_O, NULL},
    {"leak_at_line", leak_at_line, METH_O, NULL},
    {"keep", keep, METH_O, NULL},
    {"leak_kept", leak_kept, METH_NOARGS, NULL},
    {"keep_look_alike", keep_look_alike, METH_NOARGS, NULL},
    {"drop_kept", drop_kept, METH_NOARGS, NULL},
    {"leak_second_passed", leak_second_passed, METH_VARARGS, NULL},
    {"leak_passed_10th", leak_passed_10th, METH_O, NULL},
    {"leak_type_of_passed", leak_type_of_passed, METH_O, NULL},
    {"leak_dict_value", leak_dict_value, METH_VARARGS, NULL},
    {"leak_attribute", leak_attribute, METH_O, NULL},
    {"leak_iterated", leak_iterated, METH_O, NULL},
    {"leak_callback_result", leak_callback_result, METH_O, NULL},
    {"leak_path", leak_path, METH_VARARGS, NULL},
    {"leak_buffer", leak_buffer, METH_O, NULL},
    {"release_stolen", release_stolen, METH_O, NULL},
    {"release_borrowed", release_borrowed, METH_O, NULL},
    {"release_passed_10th", release_passed_10th, METH_O, NULL},
    {"twin_dict_value", twin_dict_value, METH_VARARGS, NULL},
    {"twin_attribute", twin_attribute, METH_O, NULL},
    {"twin_iterated", twin_iterated, METH_O, NULL},
    {"twin_callback", twin_callback, METH_O, NULL},
    {"twin_path", twin_path, METH_VARARGS, NULL},
    {"twin_buffer", twin_buffer, METH_O, NULL},
    {"twin_containers", twin_containers, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};
