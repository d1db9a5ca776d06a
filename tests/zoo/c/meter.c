/* libmeter.so: a preloaded malloc that knows the live blocks and bytes, as
 * requested by the callers. smoke.py checks the manifest's figures with it.
 *
 * Each block has a 16 byte head that holds its size. glibc supports replacing
 * the malloc family by symbol interposition (glibc manual, "Replacing malloc");
 * memory comes from its __libc_ entry points. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *block);

typedef struct {
    size_t size;   /* As requested. */
    size_t offset; /* From glibc's block to the caller's. */
} Head;

enum { HEAD_BYTES = sizeof(Head), EXACT_SIZES = 8192 };

static atomic_long live_blocks;
static atomic_long live_bytes;
static atomic_long mapped_bytes;
static atomic_long live_by_size[EXACT_SIZES];

/* Counts a block of `size` bytes in (+1) or out (-1). */
static void count(size_t size, long sign)
{
    atomic_fetch_add_explicit(&live_blocks, sign, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_bytes, sign * (long)size, memory_order_relaxed);
    if (size < EXACT_SIZES)
        atomic_fetch_add_explicit(&live_by_size[size], sign, memory_order_relaxed);
}

static Head *head_of(void *block)
{
    return (Head *)((char *)block - HEAD_BYTES);
}

static void *allocate(size_t alignment, size_t size)
{
    size_t offset = alignment > HEAD_BYTES ? alignment : HEAD_BYTES;
    if (size > SIZE_MAX - offset) {
        errno = ENOMEM;
        return NULL;
    }
    char *base = offset == HEAD_BYTES ? __libc_malloc(size + offset)
                                      : __libc_memalign(alignment, size + offset);
    if (base == NULL)
        return NULL;
    void *block = base + offset;
    head_of(block)->size = size;
    head_of(block)->offset = offset;
    count(size, +1);
    return block;
}

/* The malloc family. */

void *malloc(size_t size)
{
    return allocate(HEAD_BYTES, size);
}

void free(void *block)
{
    if (block == NULL)
        return;
    int saved_errno = errno;
    count(head_of(block)->size, -1);
    __libc_free((char *)block - head_of(block)->offset);
    errno = saved_errno;
}

void *calloc(size_t members, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(members, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    /* Not malloc: a compiler may turn malloc and memset into a call of calloc. */
    void *block = allocate(HEAD_BYTES, bytes);
    return block == NULL ? NULL : memset(block, 0, bytes);
}

void *realloc(void *block, size_t size)
{
    if (block == NULL)
        return malloc(size);
    if (size == 0) {
        free(block);
        return NULL;
    }
    void *moved = malloc(size);
    if (moved == NULL)
        return NULL;
    size_t before = head_of(block)->size;
    memcpy(moved, block, before < size ? before : size);
    free(block);
    return moved;
}

void *reallocarray(void *block, size_t members, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(members, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, bytes);
}

void *memalign(size_t alignment, size_t size)
{
    return allocate(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return allocate(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *block = allocate(alignment, size);
    if (block == NULL)
        return ENOMEM;
    *out = block;
    return 0;
}

void *valloc(size_t size)
{
    return allocate((size_t)getpagesize(), size);
}

void *pvalloc(size_t size)
{
    size_t page = (size_t)getpagesize();
    return allocate(page, (size + page - 1) / page * page);
}

size_t malloc_usable_size(void *block)
{
    return block == NULL ? 0 : head_of(block)->size;
}

/* Mappings, in bytes only: munmap may take them back in pieces. */

static long whole_pages(size_t length)
{
    size_t page = (size_t)getpagesize();
    return (long)((length + page - 1) / page * page);
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
{
    void *start = (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
    if (start != MAP_FAILED)
        mapped_bytes += whole_pages(length);
    return start;
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset)
{
    return mmap(address, length, protection, flags, file, offset);
}

int munmap(void *address, size_t length)
{
    int result = (int)syscall(SYS_munmap, address, length);
    if (result == 0)
        mapped_bytes -= whole_pages(length);
    return result;
}

/* The readings. They live here, not in Python objects, so that taking one does
 * not change what it reads. */

typedef struct {
    long blocks;
    long bytes;
    long mapped;
    long of_size;
} Reading;

enum { READINGS = 64 };
static Reading readings[READINGS];

/* Stores a reading in `slot`; `size` selects which exact size to count. */
void meter_read(int slot, size_t size)
{
    readings[slot % READINGS] = (Reading){
        live_blocks,
        live_bytes,
        mapped_bytes,
        size < EXACT_SIZES ? live_by_size[size] : 0,
    };
}

long meter_blocks(int slot)
{
    return readings[slot % READINGS].blocks;
}

long meter_bytes(int slot)
{
    return readings[slot % READINGS].bytes;
}

long meter_mapped(int slot)
{
    return readings[slot % READINGS].mapped;
}

long meter_of_size(int slot)
{
    return readings[slot % READINGS].of_size;
}
