/* Twins that keep memory, up to a bound: caches, rings, pools of free blocks. */
#include "zoo_noise.h"

#include <string.h>

static PyObject *twin_lazy_buffer(NOARGS)
{
    static void *buffer;
    if (buffer == NULL)
        buffer = malloc(4096);
    return zoo_done(buffer);
}

static PyObject *twin_lazy_buffer_500th(NOARGS)
{
    static unsigned long calls;
    static void *buffer;
    if (++calls == 500) {
        buffer = malloc(4096);
        return zoo_done(buffer);
    }
    Py_RETURN_NONE;
}

/* Caches that take one new entry on each call until they are full. */

enum { CACHE_ENTRY_BYTES = 48 };

typedef struct {
    size_t used;
    size_t capacity;
    void **entries;
} Cache;

ZOO_FRAME static PyObject *cache_insert(Cache *cache)
{
    if (cache->used == cache->capacity)
        Py_RETURN_NONE;
    void *entry = malloc(CACHE_ENTRY_BYTES);
    if (entry != NULL)
        cache->entries[cache->used++] = entry;
    return zoo_done(entry);
}

static PyObject *twin_cache_64(NOARGS)
{
    static void *entries[64];
    static Cache cache = {0, 64, entries};
    return cache_insert(&cache);
}

static PyObject *twin_cache_512(NOARGS)
{
    static void *entries[512];
    static Cache cache = {0, 512, entries};
    return cache_insert(&cache);
}

static PyObject *twin_cache_4096(NOARGS)
{
    static void *entries[4096];
    static Cache cache = {0, 4096, entries};
    return cache_insert(&cache);
}

static PyObject *twin_lru_256(NOARGS)
{
    static Lru lru = {.random = 0x94d049bb133111eb};
    if (zoo_lru_touch(&lru) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* A free list: each call takes up to 32 nodes and puts them back. */
static PyObject *twin_free_list(NOARGS)
{
    typedef struct FreeNode {
        struct FreeNode *next;
        char payload[56];
    } FreeNode;
    static FreeNode *free_nodes;
    static unsigned long calls;
    FreeNode *taken = NULL;
    unsigned long wanted = calls++ * 7 % 32 + 1;
    for (unsigned long i = 0; i < wanted; i++) {
        FreeNode *node = free_nodes;
        if (node != NULL)
            free_nodes = node->next;
        else if ((node = malloc(sizeof *node)) == NULL)
            return PyErr_NoMemory();
        node->next = taken;
        taken = node;
    }
    while (taken != NULL) {
        FreeNode *node = taken;
        taken = node->next;
        node->next = free_nodes;
        free_nodes = node;
    }
    Py_RETURN_NONE;
}

/* Rings of the most recent blocks. */

ZOO_FRAME static PyObject *ring_replace(void **slots, size_t length, size_t *position)
{
    void *block = malloc(72);
    if (block == NULL)
        return PyErr_NoMemory();
    free(slots[*position]);
    slots[*position] = block;
    *position = (*position + 1) % length;
    Py_RETURN_NONE;
}

static PyObject *twin_ring_64(NOARGS)
{
    static void *slots[64];
    static size_t position;
    return ring_replace(slots, 64, &position);
}

static PyObject *twin_ring_200(NOARGS)
{
    static void *slots[200];
    static size_t position;
    return ring_replace(slots, 200, &position);
}

/* Gathers one block on each call and frees all of them on every 200th. */
static PyObject *twin_sawtooth_200(NOARGS)
{
    static void *batch[200];
    static size_t used;
    void *block = malloc(64);
    if (block == NULL)
        return PyErr_NoMemory();
    batch[used++] = block;
    if (used == 200) {
        while (used > 0)
            free(batch[--used]);
    }
    Py_RETURN_NONE;
}

/* One block that alternates between a small and a large size. */
static PyObject *twin_realloc_up_down(NOARGS)
{
    static void *buffer;
    static unsigned long calls;
    size_t bytes = ++calls % 2 ? 8192 : 64;
    void *resized = realloc(buffer, bytes);
    if (resized != NULL)
        buffer = resized;
    return zoo_done(resized);
}

/* The block made in one call is freed in the next. */
static PyObject *twin_handoff(NOARGS)
{
    static void *previous;
    void *block = malloc(100);
    free(previous);
    previous = block;
    return zoo_done(block);
}

PyMethodDef zoo_bounded_methods[] = {
    {"twin_lazy_buffer", twin_lazy_buffer, METH_NOARGS, NULL},
    {"twin_lazy_buffer_500th", twin_lazy_buffer_500th, METH_NOARGS, NULL},
    {"twin_cache_64", twin_cache_64, METH_NOARGS, NULL},
    {"twin_cache_512", twin_cache_512, METH_NOARGS, NULL},
    {"twin_cache_4096", twin_cache_4096, METH_NOARGS, NULL},
    {"twin_lru_256", twin_lru_256, METH_NOARGS, NULL},
    {"twin_free_list", twin_free_list, METH_NOARGS, NULL},
    {"twin_ring_64", twin_ring_64, METH_NOARGS, NULL},
    {"twin_ring_200", twin_ring_200, METH_NOARGS, NULL},
    {"twin_sawtooth_200", twin_sawtooth_200, METH_NOARGS, NULL},
    {"twin_realloc_up_down", twin_realloc_up_down, METH_NOARGS, NULL},
    {"twin_handoff", twin_handoff, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
