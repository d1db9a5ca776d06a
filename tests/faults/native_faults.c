/* The extension module `native_faults`: code that goes to the allocator, or past it, by ways that are easily overlooked; that
 * asks much of whoever reads memory; and look-alikes. faults.py says what is true of each. */
#include <pyconfig.h> /* Says whether the interpreter has a GIL. */
#ifndef Py_GIL_DISABLED
#define Py_LIMITED_API 0x03090000 /* One .so for every version. */
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h> /* First: it defines _GNU_SOURCE, for dlmopen and others. */

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SIZE 144 /* Of each block that a route is about. */
#define FUNCTION(name) static PyObject *name(PyObject *Py_UNUSED(module), PyObject *argument)

static void *volatile black_box;

static PyObject *done(int right)
{
    return right ? (Py_INCREF(Py_None), Py_None) : PyErr_NoMemory();
}

/* Routes to the allocator. */

struct functions {
    void *(*allocate)(size_t);
    void *(*allocate_zeroed)(size_t, size_t);
    void *(*resize)(void *, size_t);
    int (*allocate_aligned)(void **, size_t, size_t);
    char *(*duplicate)(const char *);
    void (*release)(void *);
};

/* Words that the loader fills in; "used", or the compiler would call the functions by their names. */
__attribute__((used)) static struct functions in_data = {malloc, calloc, realloc, posix_memalign, strdup, free};
/* Copies that are made when the module is imported. */
static struct functions copied, looked_up, *on_heap;
/* A thread's own. */
static __thread struct functions own;

static void fill(struct functions *table, const struct functions *from) { memcpy(table, from, sizeof *table); }

static struct functions fresh(void *library)
{
    struct functions found;
    *(void **)&found.allocate = dlsym(library, "malloc");
    *(void **)&found.allocate_zeroed = dlsym(library, "calloc");
    *(void **)&found.resize = dlsym(library, "realloc");
    *(void **)&found.allocate_aligned = dlsym(library, "posix_memalign");
    *(void **)&found.duplicate = dlsym(library, "strdup");
    *(void **)&found.release = dlsym(library, "free");
    return found;
}

/* Symbols of the C library have a version; the oldest that there is for the processor. */
#ifdef __x86_64__
#define VERSION "GLIBC_2.2.5"
#else
#define VERSION "GLIBC_2.17"
#endif

static struct functions versioned(void)
{
    struct functions found = in_data;
    *(void **)&found.allocate = dlvsym(RTLD_DEFAULT, "malloc", VERSION);
    *(void **)&found.release = dlvsym(RTLD_DEFAULT, "free", VERSION);
    return found;
}

static struct functions route(PyObject *name)
{
    if (PyUnicode_CompareWithASCIIString(name, "data") == 0)
        return in_data;
    if (PyUnicode_CompareWithASCIIString(name, "import") == 0)
        return copied;
    if (PyUnicode_CompareWithASCIIString(name, "dlsym") == 0)
        return looked_up;
    if (PyUnicode_CompareWithASCIIString(name, "heap") == 0)
        return *on_heap;
    if (PyUnicode_CompareWithASCIIString(name, "versioned") == 0)
        return versioned();
    if (PyUnicode_CompareWithASCIIString(name, "thread") == 0) {
        if (own.allocate == NULL)
            fill(&own, &in_data);
        return own;
    }
    return fresh(PyUnicode_CompareWithASCIIString(name, "next") == 0 ? RTLD_NEXT : RTLD_DEFAULT);
}

static void *made(const struct functions *by, const char *how)
{
    void *block = NULL;
    if (strcmp(how, "calloc") == 0)
        block = by->allocate_zeroed(1, SIZE);
    else if (strcmp(how, "realloc") == 0)
        block = by->resize(malloc(8), SIZE); /* A block that was seen is given back by the route. */
    else if (strcmp(how, "posix_memalign") == 0)
        (void)!by->allocate_aligned(&block, 64, SIZE);
    else if (strcmp(how, "strdup") == 0)
        block = by->duplicate("text"); /* 5 bytes. */
    else
        block = by->allocate(SIZE);
    return black_box = block;
}

static PyObject *by_route(PyObject *arguments, int what)
{
    PyObject *name;
    const char *how;
    if (!PyArg_ParseTuple(arguments, "Us", &name, &how))
        return NULL;
    struct functions by = route(name);
    void *block = what == 2 ? (black_box = malloc(SIZE)) : made(&by, how);
    if (block != NULL && what == 1)
        free(block);
    if (block != NULL && what == 2)
        by.release(block);
    return done(block != NULL);
}

FUNCTION(lose) { return by_route(argument, 0); }
FUNCTION(free_plainly) { return by_route(argument, 1); }
FUNCTION(free_by_route) { return by_route(argument, 2); }

/* A library that is loaded, called and unloaded in each call. */
FUNCTION(load_call_unload)
{
    const char *path, *name;
    if (!PyArg_ParseTuple(argument, "ss", &path, &name))
        return NULL;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return PyErr_Format(PyExc_OSError, "%s", dlerror());
    void (*function)(void);
    *(void **)&function = dlsym(library, name);
    function();
    return done(dlclose(library) == 0);
}

/* A library with a C library of its own. */
FUNCTION(call_in_namespace)
{
    static void *library;
    const char *path, *name;
    if (!PyArg_ParseTuple(argument, "ss", &path, &name))
        return NULL;
    if (library == NULL && (library = dlmopen(LM_ID_NEWLM, path, RTLD_NOW)) == NULL)
        return PyErr_Format(PyExc_OSError, "%s", dlerror());
    void (*function)(void);
    *(void **)&function = dlsym(library, name);
    function();
    return done(1);
}

/* Past the allocator. */

FUNCTION(move_break)
{
    (void)argument;
    return done(sbrk(96) != (void *)-1);
}

/* Up and down again, unless glibc's heap has grown on top of it. */
FUNCTION(move_break_back)
{
    (void)argument;
    void *end = sbrk(96);
    return done(end != (void *)-1 && (sbrk(0) != (char *)end + 96 || sbrk(-96) != (void *)-1));
}

static void *map(void)
{
    char *pages = (char *)syscall(SYS_mmap, NULL, 8192L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
    if (pages != MAP_FAILED)
        pages[0] = pages[4096] = 1;
    return black_box = pages;
}

FUNCTION(map_raw)
{
    (void)argument;
    return done(map() != MAP_FAILED);
}

FUNCTION(map_and_unmap_raw)
{
    (void)argument;
    void *pages = map();
    return done(pages != MAP_FAILED && syscall(SYS_munmap, pages, 8192L) == 0);
}

/* An allocator of a library's own, which takes 64 KiB at a time from the kernel. */
static struct {
    char *next, *end;
} arena;

static char *from_arena(void)
{
    if (arena.end - arena.next < SIZE) {
        size_t size = 64 << 10;
        char *pages = (char *)syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1L, 0L);
        if (pages == MAP_FAILED)
            return NULL;
        arena.next = pages;
        arena.end = pages + size;
    }
    char *block = memset(arena.next, 'x', SIZE);
    arena.next += SIZE;
    return block;
}

FUNCTION(take_from_arena)
{
    (void)argument;
    return done(from_arena() != NULL);
}

FUNCTION(take_from_arena_and_reset)
{
    (void)argument;
    char *block = from_arena();
    arena.next = block;
    return done(block != NULL);
}

/* Memory that is there from the start, in the module's own data or mapped by the first call, and touched page by page. */
enum { ROOM = 1 << 29 };
static char data[ROOM];

static char *mapped_once(void)
{
    static char *pages;
    if (pages == NULL)
        pages = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages;
}

static PyObject *touch_next(char *pages, size_t *next)
{
    if (pages == MAP_FAILED || *next >= ROOM)
        return done(0);
    pages[*next] = 1;
    *next += 4096;
    return done(1);
}

FUNCTION(touch_data)
{
    static size_t next;
    (void)argument;
    return touch_next(data, &next);
}

FUNCTION(touch_mapping)
{
    static size_t next;
    (void)argument;
    return touch_next(mapped_once(), &next);
}

FUNCTION(touch_few_pages)
{
    static size_t next;
    (void)argument;
    next %= 400 * 4096;
    return touch_next(next % 8192 ? data : mapped_once(), &next);
}

/* One segment again and again: there may be few in a system. */
static void *attach(void)
{
    static int segment = -1;
    static char *first;
    if (segment < 0) {
        segment = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0600);
        first = shmat(segment, NULL, 0);
        /* It goes with its last user, so that it does not outlive the process. */
        shmctl(segment, IPC_RMID, NULL);
    }
    char *pages = first == (void *)-1 ? first : shmat(segment, NULL, 0);
    if (pages != (void *)-1)
        pages[0] = 1;
    return black_box = pages;
}

FUNCTION(attach_shared)
{
    (void)argument;
    return done(attach() != (void *)-1);
}

FUNCTION(attach_and_detach_shared)
{
    (void)argument;
    void *pages = attach();
    return done(pages != (void *)-1 && shmdt(pages) == 0);
}

/* Threads. */

static void *lose_one(void *unused)
{
    (void)unused;
    black_box = malloc(SIZE);
    return NULL;
}

static void *keep_no(void *unused)
{
    (void)unused;
    black_box = malloc(SIZE);
    free(black_box);
    return NULL;
}

static PyObject *in_thread(PyObject *kibibytes, void *(*body)(void *))
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    int wrong = pthread_attr_setstacksize(&attributes, PyLong_AsSize_t(kibibytes) * 1024);
    if (!wrong && !(wrong = pthread_create(&thread, &attributes, body, NULL))) {
        Py_BEGIN_ALLOW_THREADS
        wrong = pthread_join(thread, NULL);
        Py_END_ALLOW_THREADS
    }
    pthread_attr_destroy(&attributes);
    return done(!wrong);
}

FUNCTION(lose_on_small_stack) { return in_thread(argument, lose_one); }
FUNCTION(keep_none_on_small_stack) { return in_thread(argument, keep_no); }

/* Memory comes and goes for ever, on a thread that Python does not know. */
static void *churn(void *unused)
{
    (void)unused;
    for (;;) {
        size_t size = 32 << 20;
        void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (pages != MAP_FAILED)
            munmap(pages, size);
    }
    return NULL;
}

FUNCTION(start_churn)
{
    pthread_t thread;
    (void)argument;
    return done(pthread_create(&thread, NULL, churn, NULL) == 0);
}

/* What only a search of memory can tell. */

struct node {
    struct node *left, *right;
    char text[40];
};

/* Children point up as well, so that every block of a lost tree is pointed to. */
static struct node *tree(int depth, struct node *parent)
{
    struct node *node = malloc(sizeof *node);
    if (node == NULL)
        abort();
    memset(node, 0, sizeof *node);
    memcpy(node->text, &parent, sizeof parent);
    if (depth > 1) {
        node->left = tree(depth - 1, node);
        node->right = tree(depth - 1, node);
    }
    return node;
}

static void fell(struct node *node)
{
    if (node != NULL) {
        fell(node->left);
        fell(node->right);
        free(node);
    }
}

/* Dead words in a block that was freed hold nothing. */
static struct node *tree_and_dead_words(int depth)
{
    struct node *root = tree(depth, NULL), **scratch = malloc(200 * sizeof *scratch);
    if (scratch == NULL)
        abort();
    for (int i = 0; i < 200; i++)
        scratch[i] = root;
    black_box = scratch;
    free(scratch);
    return root;
}

FUNCTION(lose_tree)
{
    black_box = tree_and_dead_words((int)PyLong_AsLong(argument));
    return done(1);
}

FUNCTION(fell_tree)
{
    black_box = tree_and_dead_words((int)PyLong_AsLong(argument));
    fell(black_box);
    return done(1);
}

#define SLOTS 12000
#pragma pack(push, 1)
static struct {
    char flag;
    void *block;
} packed[SLOTS];
#pragma pack(pop)

/* Fills a table of pointers with a tag in the bits that no address has, as in values of interpreters. */
FUNCTION(hold_with_tags)
{
    static uint64_t tagged[SLOTS];
    static unsigned next;
    const uint64_t tag = (uint64_t)0xfffc << 48;
    unsigned slot = next++ % SLOTS;
    (void)argument;
    if (tagged[slot] != 0)
        free((void *)(uintptr_t)(tagged[slot] & ~tag));
    tagged[slot] = tag | (uint64_t)(uintptr_t)malloc(SIZE);
    return done(1);
}

/* Fills a table of pointers at odd addresses, which has an end. */
FUNCTION(hold_at_odd_addresses)
{
    static unsigned next;
    unsigned slot = next++ % SLOTS;
    (void)argument;
    free(packed[slot].block);
    packed[slot].block = malloc(SIZE);
    return done(packed[slot].block != NULL);
}

/* The same in memory that is readable only between the calls. */
FUNCTION(hold_in_sealed_memory)
{
    static void **sealed;
    static unsigned next;
    unsigned slot = next++ % SLOTS;
    size_t size = (SLOTS * sizeof *sealed + 4095) / 4096 * 4096;
    (void)argument;
    if (sealed == NULL)
        sealed = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (sealed == MAP_FAILED || mprotect(sealed, size, PROT_READ | PROT_WRITE) != 0)
        return done(0);
    free(sealed[slot]);
    sealed[slot] = malloc(SIZE);
    return done(sealed[slot] != NULL && mprotect(sealed, size, PROT_READ) == 0);
}

/* The same in memory that nobody may touch between the calls. */
FUNCTION(hold_in_closed_memory)
{
    static void **closed;
    static unsigned next;
    unsigned slot = next++ % SLOTS;
    size_t size = (SLOTS * sizeof *closed + 4095) / 4096 * 4096;
    (void)argument;
    if (closed == NULL)
        closed = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (closed == MAP_FAILED || mprotect(closed, size, PROT_READ | PROT_WRITE) != 0)
        return done(0);
    free(closed[slot]);
    closed[slot] = malloc(SIZE);
    return done(closed[slot] != NULL && mprotect(closed, size, PROT_NONE) == 0);
}

/* The same in shared memory that is written by descriptor only. */
FUNCTION(hold_in_shared_memory)
{
    static void **shared;
    static int file;
    static unsigned next;
    unsigned slot = next++ % SLOTS;
    size_t size = (SLOTS * sizeof *shared + 4095) / 4096 * 4096;
    (void)argument;
    if (shared == NULL) {
        file = memfd_create("table", MFD_CLOEXEC);
        if (ftruncate(file, (off_t)size) != 0)
            return done(0);
        shared = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
    }
    if (shared == MAP_FAILED)
        return done(0);
    free(shared[slot]);
    void *volatile block = malloc(SIZE);
    void *copy = block;
    int right = pwrite(file, &copy, sizeof copy, (off_t)(slot * sizeof copy)) == sizeof copy;
    block = copy = NULL;
    return done(right);
}

/* A coroutine whose stack is larger than what it needs, and smaller than what a signal or a tracker may. */
static ucontext_t caller, coroutine;
static int leaves;

static void routine(void)
{
    void *block = malloc(SIZE);
    black_box = block;
    if (!leaves)
        free(block);
    block = black_box = NULL;
    swapcontext(&coroutine, &caller);
}

static PyObject *on_coroutine_stack(size_t size, int leave)
{
    enum { ROOM = 16384 };
    static char *stack;
    if (stack == NULL) {
        stack = mmap(NULL, 4096 + ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED || mprotect(stack, 4096, PROT_NONE) != 0)
            return done(0);
    }
    leaves = leave;
    getcontext(&coroutine);
    coroutine.uc_stack.ss_sp = stack + 4096 + ROOM - size;
    coroutine.uc_stack.ss_size = size;
    makecontext(&coroutine, routine, 0);
    swapcontext(&caller, &coroutine);
    return done(1);
}

FUNCTION(lose_in_coroutine) { return on_coroutine_stack(PyLong_AsSize_t(argument), 1); }
FUNCTION(keep_none_in_coroutine) { return on_coroutine_stack(PyLong_AsSize_t(argument), 0); }

/* References. */

FUNCTION(keep_reference)
{
    Py_INCREF(argument);
    return done(1);
}

FUNCTION(keep_no_reference)
{
    Py_INCREF(argument);
    Py_DECREF(argument);
    return done(1);
}

static PyMethodDef methods[] = {
    {"lose", lose, METH_VARARGS, NULL},
    {"free_plainly", free_plainly, METH_VARARGS, NULL},
    {"free_by_route", free_by_route, METH_VARARGS, NULL},
    {"load_call_unload", load_call_unload, METH_VARARGS, NULL},
    {"call_in_namespace", call_in_namespace, METH_VARARGS, NULL},
    {"move_break", move_break, METH_NOARGS, NULL},
    {"move_break_back", move_break_back, METH_NOARGS, NULL},
    {"map_raw", map_raw, METH_NOARGS, NULL},
    {"map_and_unmap_raw", map_and_unmap_raw, METH_NOARGS, NULL},
    {"take_from_arena", take_from_arena, METH_NOARGS, NULL},
    {"take_from_arena_and_reset", take_from_arena_and_reset, METH_NOARGS, NULL},
    {"touch_data", touch_data, METH_NOARGS, NULL},
    {"touch_mapping", touch_mapping, METH_NOARGS, NULL},
    {"touch_few_pages", touch_few_pages, METH_NOARGS, NULL},
    {"attach_shared", attach_shared, METH_NOARGS, NULL},
    {"attach_and_detach_shared", attach_and_detach_shared, METH_NOARGS, NULL},
    {"lose_on_small_stack", lose_on_small_stack, METH_O, NULL},
    {"keep_none_on_small_stack", keep_none_on_small_stack, METH_O, NULL},
    {"start_churn", start_churn, METH_NOARGS, NULL},
    {"lose_tree", lose_tree, METH_O, NULL},
    {"fell_tree", fell_tree, METH_O, NULL},
    {"hold_at_odd_addresses", hold_at_odd_addresses, METH_NOARGS, NULL},
    {"hold_with_tags", hold_with_tags, METH_NOARGS, NULL},
    {"hold_in_sealed_memory", hold_in_sealed_memory, METH_NOARGS, NULL},
    {"hold_in_closed_memory", hold_in_closed_memory, METH_NOARGS, NULL},
    {"hold_in_shared_memory", hold_in_shared_memory, METH_NOARGS, NULL},
    {"lose_in_coroutine", lose_in_coroutine, METH_O, NULL},
    {"keep_none_in_coroutine", keep_none_in_coroutine, METH_O, NULL},
    {"keep_reference", keep_reference, METH_O, NULL},
    {"keep_no_reference", keep_no_reference, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "native_faults", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_native_faults(void)
{
    fill(&copied, &in_data);
    looked_up = fresh(RTLD_DEFAULT);
    on_heap = malloc(sizeof *on_heap);
    if (on_heap == NULL)
        return PyErr_NoMemory();
    fill(on_heap, &in_data);
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module != NULL)
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    return module;
}
