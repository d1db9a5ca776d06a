/* The extension module `zoo_refs`: mistakes in counting references to objects
 * that live on anyway, which cost no memory per call, and look-alikes. */
#include "zoo_refs.h"

PyObject *zoo_refs_limits;
PyObject *zoo_refs_defaults;
PyObject *zoo_refs_error;

static struct PyModuleDef zoo_refs_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "zoo_refs",
    .m_doc = "Functions that miscount references in known ways, and twins that do not.",
    .m_size = -1, /* The state is C statics: one module per process. */
};

/* Adds `object`, of which the caller keeps its own reference. */
static int add(PyObject *module, const char *name, PyObject *object)
{
    Py_XINCREF(object);
    return PyModule_AddObject(module, name, object);
}

static int fill(PyObject *module)
{
    zoo_refs_limits = Py_BuildValue("(ii)", 64, 4096);
    zoo_refs_defaults = Py_BuildValue("{s:i}", "retries", 3);
    zoo_refs_error = PyErr_NewException("zoo_refs.Error", NULL, NULL);
    if (add(module, "LIMITS", zoo_refs_limits) < 0 || add(module, "DEFAULTS", zoo_refs_defaults) < 0)
        return -1;
    if (add(module, "Error", zoo_refs_error) < 0)
        return -1;
    /* Code compiled against headers of 3.12 or later leaves the counts of
     * immortal objects alone; older code moves them. */
    if (PyModule_AddIntConstant(module, "HEADERS", PY_VERSION_HEX) < 0)
        return -1;
    return zoo_refs_add_objects(module) < 0 ? -1 : zoo_refs_add_stores(module);
}

PyMODINIT_FUNC PyInit_zoo_refs(void)
{
    PyObject *module = zoo_module_create(&zoo_refs_module);
    if (module == NULL)
        return NULL;
    PyMethodDef *const tables[] = {zoo_refs_bugs, zoo_refs_objects, zoo_refs_twins};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0)
            goto error;
    }
    if (fill(module) == 0)
        return module;
error:
    Py_DECREF(module);
    return NULL;
}
