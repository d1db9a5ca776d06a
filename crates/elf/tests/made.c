/* What is rare in the libraries of a machine; tests/files.rs says how it is built. */

#include <stdlib.h>

int number = 1;
_Thread_local int of_each_thread = 2;
extern int nowhere __attribute__((weak));

/* The word is relocated in the data, and in the packed structure at an odd address. */
void *(*in_data)(size_t) = malloc;
struct __attribute__((packed)) {
    char before;
    void *(*word)(size_t);
} in_packed = {0, calloc};
/* Relocated in the code, which stays read-only. */
__asm__(".text\n.balign 8\n.globl in_code\nin_code: .quad free\n");

int of_two_versions_old(void) { return 1; }
int of_two_versions_new(void) { return nowhere ? nowhere : 2; }
#ifdef VERSIONS
__asm__(".symver of_two_versions_old, of_two_versions@FIRST");
__asm__(".symver of_two_versions_new, of_two_versions@@SECOND");
#endif

static int chosen(void) { return 3; }
static int (*choose(void))(void) { return chosen; }
int indirect(void) __attribute__((ifunc("choose")));

void *call(size_t size)
{
    void *block = malloc(size);
    free(block);
    return realloc(NULL, size + indirect() + of_each_thread);
}
