"""Memory that is kept between steps: without it the C library hands large blocks back to the system at every one."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # the numbers of glibc's <malloc.h>
_PAD = 2**26


def keep_memory() -> bool:
    """Let glibc keep what is freed for the next block of this process; return whether the system took the advice.

    Each block above 32 MiB is otherwise mapped anew, and filled with zeros page by page at its first touch, which took
    a fifth of the time of a training step. The process stays as large as it was at its largest.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    advice = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD))
    return all(library.mallopt(name, value) for name, value in advice)
