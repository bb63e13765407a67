"""Reuse of freed memory between training steps."""

from __future__ import annotations

import ctypes
import platform

# Options of glibc's mallopt: no block is mapped on its own, the heap does not shrink, and grows by 256 MB at a time.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_KEEP_MEMORY = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: 256 << 20, _M_ARENA_MAX: 1}


def keep_freed_memory() -> None:
    """Keep memory freed by one training step for the next, in this process from now on, with glibc.

    By default glibc returns each large block to the system, which clears its pages when the next step needs them: a
    fifth of a step's processor time.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in _KEEP_MEMORY.items():
            library.mallopt(option, value)
