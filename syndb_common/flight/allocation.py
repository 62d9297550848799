"""Memory of batches that have gone is kept for those that come, and given back now and then.

gRPC takes the memory of each batch from the C library, which by default gives pieces of that size back to the system at
once. Fetching and clearing the same pages anew was two fifths of what receiving cost (``flight_get_vs_loopback``). What
is kept falls to pieces between which something small lives, and would grow by some 20 MB with every million rows: so
a reader gives all of it back whenever it has received so much that this costs little. The same holds for Arrow's own.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

import pyarrow as pa

LARGEST_BYTES: Final = 32 * 1024**2
"""Pieces above this still come from the system one by one; the C library takes no larger value."""
KEPT_BYTES: Final = 32 * 1024**2
"""Free memory above this, at the end of a heap, is given back."""
GIVEN_BACK_AFTER_BYTES: Final = 128 * 1024**2
"""Between two times that a reader gives everything back."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


@cache
def keep_freed_memory() -> None:
    """Do so from now on in this process. Nothing happens where the C library has no such choice."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Give all memory that is free back to the system; a few milliseconds. Nothing where that cannot be done."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
