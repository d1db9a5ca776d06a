/* malloc and free in pairs, timed on the thread's own CPU clock. */
#include <stdlib.h>
#include <time.h>

enum { PAIRS = 1000000, WORKING_SET = 100, SIZE = 64, MOST_CALLS = 64 };

double pairs_nanoseconds[MOST_CALLS]; /* Of one pair, in each call. */
int pairs_calls;

static void *volatile blocks[WORKING_SET];

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

void pairs(void)
{
    double start = now();
    for (int i = 0; i < PAIRS; i++) {
        int at = i % WORKING_SET;
        free(blocks[at]);
        blocks[at] = malloc(SIZE);
    }
    double end = now();
    for (int at = 0; at < WORKING_SET; at++) {
        free(blocks[at]);
        blocks[at] = NULL;
    }
    if (pairs_calls < MOST_CALLS)
        pairs_nanoseconds[pairs_calls++] = (end - start) / PAIRS;
}
