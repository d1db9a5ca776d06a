/* An LRU cache whose entries have random sizes: bounded in number, never
 * constant in bytes. */
#ifndef ZOO_NOISE_H
#define ZOO_NOISE_H

#include "zoo.h"

enum { LRU_ENTRIES = 256, LRU_KEYS = 1024 };

typedef struct {
    uint64_t random;
    unsigned long clock;
    struct {
        uint64_t key;
        unsigned long used_at; /* 0 while the entry is empty. */
        void *payload;
    } entries[LRU_ENTRIES];
} Lru;

/* Looks up a random key; on a miss replaces the least recently used entry.
 * -1 when out of memory. */
int zoo_lru_touch(Lru *lru);

#endif
