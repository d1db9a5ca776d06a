/* Small leaks hidden beside allocation noise, and the same noise without one.
 *
 * The leak is always 16 bytes; the noise never asks for fewer than 24. */
#include "zoo_noise.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

/* Beside an LRU cache. */

int zoo_lru_touch(Lru *lru)
{
    uint64_t key = (zoo_random(&lru->random) >> 16) % LRU_KEYS;
    size_t oldest = 0;
    for (size_t i = 0; i < LRU_ENTRIES; i++) {
        if (lru->entries[i].used_at != 0 && lru->entries[i].key == key) {
            lru->entries[i].used_at = ++lru->clock;
            return 0;
        }
        if (lru->entries[i].used_at < lru->entries[oldest].used_at)
            oldest = i;
    }
    void *payload = malloc(zoo_random_size(&lru->random, 2000));
    if (payload == NULL)
        return -1;
    free(lru->entries[oldest].payload);
    lru->entries[oldest].key = key;
    lru->entries[oldest].used_at = ++lru->clock;
    lru->entries[oldest].payload = payload;
    return 0;
}

static Lru noisy_lru = {.random = 0x2545f4914f6cdd1d};

static PyObject *leak_beside_lru(NOARGS)
{
    if (zoo_lru_touch(&noisy_lru) < 0)
        return PyErr_NoMemory();
    void *volatile block = malloc(16); /* LEAK: leak_beside_lru */
    return zoo_done(block);
}

static PyObject *twin_beside_lru(NOARGS)
{
    if (zoo_lru_touch(&noisy_lru) < 0)
        return PyErr_NoMemory();
    void *volatile block = malloc(16);
    free(block);
    Py_RETURN_NONE;
}

/* Beside a pool of live blocks that fragments the heap. */

enum { FRAGMENT_SLOTS = 1024, FRAGMENT_STEPS = 16 };

typedef struct {
    uint64_t random;
    void *slots[FRAGMENT_SLOTS];
} Fragments;

/* Frees the chosen slot when it is full, and fills it when it is empty. */
static void fragments_step(Fragments *fragments, size_t size_span)
{
    size_t slot = (size_t)(zoo_random(&fragments->random) >> 16) % FRAGMENT_SLOTS;
    if (fragments->slots[slot] != NULL) {
        free(fragments->slots[slot]);
        fragments->slots[slot] = NULL;
    } else {
        fragments->slots[slot] = malloc(zoo_random_size(&fragments->random, size_span));
    }
}

static Fragments live_fragments = {.random = 0xd1342543de82ef95};

static PyObject *leak_beside_fragments(NOARGS)
{
    for (int i = 0; i < FRAGMENT_STEPS; i++)
        fragments_step(&live_fragments, 4000);
    void *volatile block = malloc(16); /* LEAK: leak_beside_fragments */
    return zoo_done(block);
}

static PyObject *twin_beside_fragments(NOARGS)
{
    for (int i = 0; i < FRAGMENT_STEPS; i++)
        fragments_step(&live_fragments, 4000);
    void *volatile block = malloc(16);
    free(block);
    Py_RETURN_NONE;
}

/* Beside a native thread that allocates and frees all the time. */

enum { BACKGROUND_STEPS = 64, BACKGROUND_PAUSE_MICROSECONDS = 200 };

static Fragments background_fragments = {.random = 0xbf58476d1ce4e5b9};
static pthread_t background_thread;
static pid_t background_owner; /* 0 when stopped; a forked child has no thread. */
static atomic_int background_stopping;

static void *background_body(void *Py_UNUSED(arg))
{
    while (!background_stopping) {
        for (int i = 0; i < BACKGROUND_STEPS; i++)
            fragments_step(&background_fragments, 1000);
        usleep(BACKGROUND_PAUSE_MICROSECONDS);
    }
    for (size_t i = 0; i < FRAGMENT_SLOTS; i++) {
        free(background_fragments.slots[i]);
        background_fragments.slots[i] = NULL;
    }
    return NULL;
}

/* background_start(): starts the noisy thread unless it runs already. */
static PyObject *background_start(NOARGS)
{
    if (background_owner == getpid())
        Py_RETURN_NONE;
    background_stopping = 0;
    int error = pthread_create(&background_thread, NULL, background_body, NULL);
    if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    background_owner = getpid();
    Py_RETURN_NONE;
}

/* background_stop(): ends the noisy thread; it frees all it holds. */
static PyObject *background_stop(NOARGS)
{
    if (background_owner != getpid())
        Py_RETURN_NONE;
    background_stopping = 1;
    Py_BEGIN_ALLOW_THREADS
    pthread_join(background_thread, NULL);
    Py_END_ALLOW_THREADS
    background_owner = 0;
    Py_RETURN_NONE;
}

static PyObject *leak_beside_background(NOARGS)
{
    void *volatile block = malloc(16); /* LEAK: leak_beside_background */
    return zoo_done(block);
}

static PyObject *twin_beside_background(NOARGS)
{
    void *volatile block = malloc(16);
    free(block);
    Py_RETURN_NONE;
}

PyMethodDef zoo_noise_methods[] = {
    {"leak_beside_lru", leak_beside_lru, METH_NOARGS, NULL},
    {"twin_beside_lru", twin_beside_lru, METH_NOARGS, NULL},
    {"leak_beside_fragments", leak_beside_fragments, METH_NOARGS, NULL},
    {"twin_beside_fragments", twin_beside_fragments, METH_NOARGS, NULL},
    {"background_start", background_start, METH_NOARGS, NULL},
    {"background_stop", background_stop, METH_NOARGS, NULL},
    {"leak_beside_background", leak_beside_background, METH_NOARGS, NULL},
    {"twin_beside_background", twin_beside_background, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
