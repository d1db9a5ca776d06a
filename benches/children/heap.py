"""heap.py leaktight|psutil FREE_CHUNKS: CPU seconds of a `heap_info()`, the quickest of some rounds."""

import ctypes
import sys
import time

ROUNDS = 15
ROUND_SECONDS = 0.02
#: Too large for malloc's quick lists, which are not gone through.
SIZE = 200


def leave_free_chunks(count):
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(SIZE) for _ in range(2 * count)]
    # With a block in use between any two of them, or they would become one.
    for block in blocks[::2]:
        libc.free(block)


def seconds(calls, heap_info):
    start = time.process_time()
    for _ in range(calls):
        heap_info()
    return time.process_time() - start


def main():
    package, count = sys.argv[1:]
    heap_info = __import__(package).heap_info
    leave_free_chunks(int(count))
    calls = 1
    while seconds(calls, heap_info) < ROUND_SECONDS:
        calls *= 2
    print(f"figure: {min(seconds(calls, heap_info) for _ in range(ROUNDS)) / calls!r}")


main()
