// The extension module `zoo_cpp`: leaks as C++ makes them, and twins.
// ../manifest.py says what each function loses.

#include <pyconfig.h> // Says whether the interpreter has a GIL.
#if !defined(Py_LIMITED_API) && !defined(Py_GIL_DISABLED)
#define Py_LIMITED_API 0x03090000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstddef>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// Counts the reference, whatever the headers: those of 3.12 and later take None
// for immortal, which it is not on the older interpreters that load the .so.
#undef Py_RETURN_NONE
#define Py_RETURN_NONE return Py_INCREF(Py_None), Py_None

// The parameters of a METH_NOARGS function that uses neither.
#define NOARGS PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)

// A helper that must stay a frame of its own on the call stack.
#if defined(__clang__)
#define ZOO_FRAME __attribute__((noinline))
#else
#define ZOO_FRAME __attribute__((noinline, noclone))
#endif

namespace zoo_cpp {

struct Point {
    double x, y, z;
    long weight, tag;
};

// The leaks. Results are held in `volatile` pointers so that the compiler
// cannot pair a new-expression with nothing and elide it ([expr.new]/10).

PyObject *leak_new(NOARGS) {
    Point *volatile point = new Point{1, 2, 3, 4, 5}; // LEAK: cpp_leak_new
    (void)point;
    Py_RETURN_NONE;
}

PyObject *leak_new_array(NOARGS) {
    double *volatile samples = new double[16]; // LEAK: cpp_leak_new_array
    (void)samples;
    Py_RETURN_NONE;
}

PyObject *leak_string(NOARGS) {
    std::string *volatile text = new std::string(100, 'x'); // LEAK: cpp_leak_string
    (void)text;
    Py_RETURN_NONE;
}

PyObject *leak_static_vector(NOARGS) {
    static std::vector<long> history;
    history.push_back(42); // LEAK: cpp_leak_static_vector
    Py_RETURN_NONE;
}

PyObject *leak_unique_ptr(NOARGS) {
    std::unique_ptr<Point> owner(new Point{1, 2, 3, 4, 5}); // LEAK: cpp_leak_unique_ptr
    Point *volatile released = owner.release();
    (void)released;
    Py_RETURN_NONE;
}

ZOO_FRAME std::size_t parse_record(const std::string &text) {
    char *volatile fields = new char[text.size()]; // LEAK: cpp_leak_exception_path
    std::size_t separator = text.find('=');
    if (separator == std::string::npos)
        throw std::runtime_error("record has no separator");
    delete[] fields;
    return separator;
}

// Catches what parse_record throws; the array is lost on the way.
PyObject *leak_exception_path(NOARGS) {
    try {
        return PyLong_FromSize_t(parse_record("a record of 26 characters."));
    } catch (const std::runtime_error &) {
        Py_RETURN_NONE;
    }
}

template <typename T> ZOO_FRAME T *clone_value(const T &value) {
    T *volatile copy = new T(value); // LEAK: cpp_leak_template
    return copy;
}

PyObject *leak_template(NOARGS) {
    Point *volatile copy = clone_value(Point{1, 2, 3, 4, 5});
    (void)copy;
    Py_RETURN_NONE;
}

class Session {
  public:
    ZOO_FRAME void open() {
        buffer = new char[80]; // LEAK: cpp_leak_method
    }

  private:
    char *volatile buffer = nullptr;
};

PyObject *leak_method(NOARGS) {
    Session session;
    session.open();
    Py_RETURN_NONE;
}

ZOO_FRAME void call_back(void (*callback)()) { callback(); }

PyObject *leak_lambda(NOARGS) {
    call_back([] {
        char *volatile block = new char[88]; // LEAK: cpp_leak_lambda
        (void)block;
    });
    Py_RETURN_NONE;
}

// The two halves of a shared_ptr cycle keep each other alive.
struct Peer {
    std::shared_ptr<Peer> other;
    long payload[4] = {};
};

PyObject *leak_shared_cycle(NOARGS) {
    auto peer = std::make_shared<Peer>(); // LEAK: cpp_leak_shared_cycle
    peer->other = peer;
    Py_RETURN_NONE;
}

// The twins.

PyObject *twin_new(NOARGS) {
    Point *volatile point = new Point{1, 2, 3, 4, 5};
    double *volatile samples = new double[16];
    delete[] samples;
    delete point;
    Py_RETURN_NONE;
}

PyObject *twin_string(NOARGS) {
    std::string text(100, 'x');
    text += std::string(300, 'y');
    return PyLong_FromSize_t(text.find("yy"));
}

PyObject *twin_vector(NOARGS) {
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < 20; i++)
        lines.emplace_back(i * 10, 'x');
    return PyLong_FromSize_t(lines.size());
}

// clear() keeps the capacity ([vector.capacity]): one block, 8,000 bytes at most.
PyObject *twin_retained_capacity(NOARGS) {
    static std::vector<long> scratch;
    static std::size_t calls;
    scratch.clear();
    for (std::size_t i = 0, n = calls++ * 37 % 1000; i < n; i++)
        scratch.push_back(42);
    Py_RETURN_NONE;
}

PyObject *twin_unique_ptr(NOARGS) {
    std::unique_ptr<Point> owner(new Point{1, 2, 3, 4, 5});
    Point *volatile seen = owner.get();
    (void)seen;
    Py_RETURN_NONE;
}

PyObject *twin_exception_path(NOARGS) {
    try {
        std::vector<double> fields(26);
        if (fields.at(0) == 0)
            throw std::runtime_error("record has no separator");
    } catch (const std::runtime_error &) {
    }
    Py_RETURN_NONE;
}

PyObject *twin_map(NOARGS) {
    static std::map<long, std::string> latest;
    static long calls;
    latest[calls++] = std::string(64, 'x');
    if (latest.size() > 100)
        latest.erase(latest.begin());
    Py_RETURN_NONE;
}

PyObject *twin_shared_ptr(NOARGS) {
    auto peer = std::make_shared<Peer>();
    peer->other = std::make_shared<Peer>();
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"leak_new", leak_new, METH_NOARGS, nullptr},
    {"leak_new_array", leak_new_array, METH_NOARGS, nullptr},
    {"leak_string", leak_string, METH_NOARGS, nullptr},
    {"leak_static_vector", leak_static_vector, METH_NOARGS, nullptr},
    {"leak_unique_ptr", leak_unique_ptr, METH_NOARGS, nullptr},
    {"leak_exception_path", leak_exception_path, METH_NOARGS, nullptr},
    {"leak_template", leak_template, METH_NOARGS, nullptr},
    {"leak_method", leak_method, METH_NOARGS, nullptr},
    {"leak_lambda", leak_lambda, METH_NOARGS, nullptr},
    {"leak_shared_cycle", leak_shared_cycle, METH_NOARGS, nullptr},
    {"twin_new", twin_new, METH_NOARGS, nullptr},
    {"twin_string", twin_string, METH_NOARGS, nullptr},
    {"twin_vector", twin_vector, METH_NOARGS, nullptr},
    {"twin_retained_capacity", twin_retained_capacity, METH_NOARGS, nullptr},
    {"twin_unique_ptr", twin_unique_ptr, METH_NOARGS, nullptr},
    {"twin_exception_path", twin_exception_path, METH_NOARGS, nullptr},
    {"twin_map", twin_map, METH_NOARGS, nullptr},
    {"twin_shared_ptr", twin_shared_ptr, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "zoo_cpp",
    "C++ functions that leak in known ways, and twins that do not.",
    -1, // The state is C++ statics: one module per process.
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
};

} // namespace zoo_cpp

PyMODINIT_FUNC PyInit_zoo_cpp(void)
{
    PyObject *module = PyModule_Create(&zoo_cpp::definition);
#ifdef Py_GIL_DISABLED
    if (module != nullptr)
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
