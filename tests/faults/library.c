/* A library without Python: it hands out blocks for the caller to free, and loses some. It is loaded by ctypes, in a
 * namespace of its own, and anew in each call. */
#include <stdlib.h>
#include <string.h>

char *copied(size_t size)
{
    char *block = malloc(size);
    return block == NULL ? NULL : memset(block, 'x', size);
}

static void *volatile black_box;

void lose(void) { black_box = copied(300); }

void keep_none(void)
{
    black_box = copied(300);
    free(black_box);
}
