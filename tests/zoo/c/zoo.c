/* The extension module `zoo`: functions that each misbehave in exactly one
 * known way, and twins that look alike and do not. ../manifest.py says what
 * each one loses. */
#include "zoo.h"

PyObject *zoo_done(void *block)
{
    if (block == NULL)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static struct PyModuleDef zoo_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "zoo",
    .m_doc = "Functions that leak in known ways, and twins that do not.",
    .m_size = -1, /* The state is C statics: one module per process. */
};

PyMODINIT_FUNC PyInit_zoo(void)
{
    PyMethodDef *const tables[] = {
        zoo_native_methods, zoo_rhythm_methods,  zoo_object_methods, zoo_thread_methods,
        zoo_noise_methods,  zoo_bounded_methods, zoo_churn_methods,
    };
    PyObject *module = zoo_module_create(&zoo_module);
    if (module == NULL)
        return NULL;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        if (PyModule_AddFunctions(module, tables[i]) < 0) {
            Py_DECREF(module);
            return NULL;
        }
    }
    if (zoo_add_types(module) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
