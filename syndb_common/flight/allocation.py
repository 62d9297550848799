"""Memory of batches that have gone is kept for those that come.

gRPC takes the memory of each batch from the C library, which by default gives pieces of that size back to the system at
once. Fetching and clearing the same pages anew was two fifths of what receiving cost (``flight_get_vs_loopback``).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

LARGEST_BYTES: Final = 32 * 1024**2
"""Pieces above this still come from the system one by one; the C library takes no larger value."""
KEPT_BYTES: Final = 32 * 1024**2
"""Free memory above this, at the end of a heap, is given back."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


@cache
def keep_freed_memory() -> None:
    """Do so from now on in this process. Nothing happens where the C library has no such choice."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
