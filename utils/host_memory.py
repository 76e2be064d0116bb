"""Lets the process keep the memory that it frees, since the next step needs as much again.

glibc gives large blocks back to the system as soon as they are freed, and each one that is taken then has to be cleared
again, page by page. A forward pass on a CPU takes and frees blocks of some 10 MB all the time: half of its processor
time went into that. Where the environment says otherwise, or the C library is another one, nothing is changed.
"""
import ctypes
import os
import platform

SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")  # of the user
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # numbers of mallopt's parameters (malloc.h)
KEPT = 1 << 29  # bytes at the top of the heap that are not given back
LARGE = 1 << 28  # bytes; larger blocks, such as puzzle tables, are still given back at once
AHEAD = 1 << 26  # bytes by which the heap grows at least


def keep_freed_memory() -> None:
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in SETTINGS):
        return
    mallopt = ctypes.CDLL(None).mallopt
    if mallopt(MMAP_THRESHOLD, LARGE) or mallopt(MMAP_THRESHOLD, 1 << 25):  # older versions take no more than 32 MB
        mallopt(TRIM_THRESHOLD, KEPT)
        mallopt(TOP_PAD, AHEAD)
