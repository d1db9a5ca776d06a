/* Native threads: leaks made in them, and twins that give everything back. */
#include "zoo.h"

#include <errno.h>
#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

/* Creates a thread and joins it with the GIL released; -1 sets OSError. */
static int run_joined(void *(*body)(void *))
{
    pthread_t thread;
    int error;
    Py_BEGIN_ALLOW_THREADS
    error = pthread_create(&thread, NULL, body, NULL);
    if (error == 0)
        error = pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    if (error != 0) {
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

static void *joined_leaking_body(void *Py_UNUSED(arg))
{
    void *volatile block = malloc(100); /* LEAK: leak_thread_joined */
    (void)block;
    return NULL;
}

static PyObject *leak_thread_joined(NOARGS)
{
    if (run_joined(joined_leaking_body) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void *joined_clean_body(void *Py_UNUSED(arg))
{
    void *volatile block = malloc(100);
    free(block);
    return NULL;
}

static PyObject *twin_thread_joined(NOARGS)
{
    if (run_joined(joined_clean_body) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Starts a thread that nobody joins; returns an errno code. It is born detached:
 * pthread_detach reads the thread's descriptor after it has let go of it, when
 * the thread may have ended and unmapped it (glibc 2.36, nptl/pthread_detach.c). */
static int start_detached(void *(*body)(void *), void *arg)
{
    pthread_t thread;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_create(&thread, &attributes, body, arg);
    pthread_attr_destroy(&attributes);
    return error;
}

/* Detached threads that outlive the call that made them. */

enum { DETACHED_LIMIT = 64, DETACHED_DELAY_MICROSECONDS = 300 };

static pthread_mutex_t detached_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t detached_ended = PTHREAD_COND_INITIALIZER;
static int detached_alive;

/* Waits until at most `most` detached threads are still to do their work. */
static void detached_wait_for(int most)
{
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&detached_lock);
    while (detached_alive > most)
        pthread_cond_wait(&detached_ended, &detached_lock);
    pthread_mutex_unlock(&detached_lock);
    Py_END_ALLOW_THREADS
}

static void detached_end(void)
{
    pthread_mutex_lock(&detached_lock);
    detached_alive--;
    pthread_cond_broadcast(&detached_ended);
    pthread_mutex_unlock(&detached_lock);
}

static void *detached_leaking_body(void *Py_UNUSED(arg))
{
    usleep(DETACHED_DELAY_MICROSECONDS);
    void *volatile block = malloc(100); /* LEAK: leak_thread_detached */
    (void)block;
    detached_end();
    return NULL;
}

static void *detached_clean_body(void *Py_UNUSED(arg))
{
    usleep(DETACHED_DELAY_MICROSECONDS);
    void *volatile block = malloc(100);
    free(block);
    detached_end();
    return NULL;
}

static PyObject *run_detached(void *(*body)(void *))
{
    detached_wait_for(DETACHED_LIMIT - 1);
    pthread_mutex_lock(&detached_lock);
    detached_alive++;
    pthread_mutex_unlock(&detached_lock);
    int error = start_detached(body, NULL);
    if (error != 0) {
        detached_end();
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *leak_thread_detached(NOARGS)
{
    return run_detached(detached_leaking_body);
}

static PyObject *twin_thread_detached(NOARGS)
{
    return run_detached(detached_clean_body);
}

/* detached_wait(): returns when no detached thread has work left to do. */
static PyObject *detached_wait(NOARGS)
{
    detached_wait_for(0);
    Py_RETURN_NONE;
}

/* Threads as a resource. Not in the manifest, which counts memory; their twins are twin_thread_joined and
 * twin_thread_detached. */

static void *waiting_body(void *Py_UNUSED(arg))
{
    for (;;)
        pause();
    return NULL;
}

static void *empty_body(void *Py_UNUSED(arg))
{
    return NULL;
}

/* Starts a thread, for somebody to join. */
static PyObject *start_joinable(void *(*body)(void *))
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, body, NULL);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

static PyObject *thread_left_running(NOARGS)
{
    return start_joinable(waiting_body);
}

static PyObject *thread_never_joined(NOARGS)
{
    return start_joinable(empty_body);
}

/* Pools of workers. */

typedef void (*Job)(void);

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    Job waiting;   /* Submitted and not yet taken by a worker. */
    int occupied;  /* A submitter is between hand-over and completion. */
    int completed; /* The occupying submitter's job has ended. */
    pid_t owner;   /* The process whose threads serve it; 0 before the start. */
} Pool;

#define POOL_INITIALIZER {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0, 0, 0}

static Pool started_pool = POOL_INITIALIZER;
static Pool lazy_pool = POOL_INITIALIZER;

static void *pool_worker(void *arg)
{
    Pool *pool = arg;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->waiting == NULL)
            pthread_cond_wait(&pool->changed, &pool->lock);
        Job job = pool->waiting;
        pool->waiting = NULL;
        pthread_mutex_unlock(&pool->lock);
        job();
        pthread_mutex_lock(&pool->lock);
        pool->completed = 1;
        pthread_cond_broadcast(&pool->changed);
    }
    return NULL;
}

/* Starts the workers once per process; a forked child has none of its parent's
 * threads (fork(2)) and starts its own. */
static int pool_ensure(Pool *pool, long workers)
{
    if (pool->owner == getpid())
        return 0;
    *pool = (Pool)POOL_INITIALIZER;
    for (long i = 0; i < workers; i++) {
        int error = start_detached(pool_worker, pool);
        if (error != 0) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
    }
    pool->owner = getpid();
    return 0;
}

/* Hands `job` to a worker and waits for its end with the GIL released. */
static PyObject *pool_run(Pool *pool, Job job)
{
    if (pool->owner != getpid()) {
        PyErr_SetString(PyExc_RuntimeError, "call zoo.pool_start(n) first");
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&pool->lock);
    while (pool->occupied)
        pthread_cond_wait(&pool->changed, &pool->lock);
    pool->occupied = 1;
    pool->completed = 0;
    pool->waiting = job;
    pthread_cond_broadcast(&pool->changed);
    while (!pool->completed)
        pthread_cond_wait(&pool->changed, &pool->lock);
    pool->occupied = 0;
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->lock);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* pool_start(n): n workers, from now to the end of the process. */
static PyObject *pool_start(PyObject *Py_UNUSED(module), PyObject *count)
{
    long workers = PyLong_AsLong(count);
    if (workers == -1 && PyErr_Occurred())
        return NULL;
    if (workers < 1 || workers > 64) {
        PyErr_SetString(PyExc_ValueError, "a pool has 1 to 64 workers");
        return NULL;
    }
    if (pool_ensure(&started_pool, workers) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void leaking_job(void)
{
    void *volatile block = malloc(100); /* LEAK: leak_pool */
    (void)block;
}

static void clean_job(void)
{
    void *volatile block = malloc(100);
    free(block);
}

static PyObject *leak_pool(NOARGS)
{
    return pool_run(&started_pool, leaking_job);
}

static PyObject *twin_pool(NOARGS)
{
    return pool_run(&started_pool, clean_job);
}

/* The first call starts two workers, which stay. */
static PyObject *twin_lazy_pool(NOARGS)
{
    if (pool_ensure(&lazy_pool, 2) < 0)
        return NULL;
    return pool_run(&lazy_pool, clean_job);
}

PyMethodDef zoo_thread_methods[] = {
    {"leak_thread_joined", leak_thread_joined, METH_NOARGS, NULL},
    {"twin_thread_joined", twin_thread_joined, METH_NOARGS, NULL},
    {"leak_thread_detached", leak_thread_detached, METH_NOARGS, NULL},
    {"twin_thread_detached", twin_thread_detached, METH_NOARGS, NULL},
    {"detached_wait", detached_wait, METH_NOARGS, NULL},
    {"thread_left_running", thread_left_running, METH_NOARGS, NULL},
    {"thread_never_joined", thread_never_joined, METH_NOARGS, NULL},
    {"pool_start", pool_start, METH_O, NULL},
    {"leak_pool", leak_pool, METH_NOARGS, NULL},
    {"twin_pool", twin_pool, METH_NOARGS, NULL},
    {"twin_lazy_pool", twin_lazy_pool, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
