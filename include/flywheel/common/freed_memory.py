"""What glibc's allocator does with memory that was freed."""

from __future__ import annotations

import ctypes

# Of <malloc.h>: blocks from this size on are mapped one by one; so much free memory at the top stays ours.
_M_MMAP_THRESHOLD, _MAPPED_FROM = -3, 4 << 20
_M_TRIM_THRESHOLD, _KEPT = -1, 32 << 20
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Keep freed memory for what is allocated next; where the C library is another one, nothing happens.

    A forward pass makes and drops the same tensors of some 100 KB again and again. Given back to the system
    each time, they come back as new pages that the kernel zeroes: up to ten page faults for a short text. And
    threads share one arena, so that what one has freed is there for the others.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_ARENA_MAX, 1)
