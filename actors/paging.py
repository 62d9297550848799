"""What does not fit one frame travels in pages, each well below the largest frame."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgpack
from pydantic import BaseModel

from syndb_common.messages import to_wire

T = TypeVar("T", bound=BaseModel)

PAGE_BYTES = 512 * 1024
"""Of a page as it travels, about: half a frame, since one item may be long. One longer still is a page alone."""


def in_pages(items: Iterable[T], *, size: int = PAGE_BYTES, most: int = 1000) -> list[tuple[T, ...]]:
    """Divide items, in their order, into at least one page, each of about ``size`` bytes and at most ``most`` items."""
    pages: list[tuple[T, ...]] = []
    page: list[T] = []
    filled = 0
    for item in items:
        needed = len(msgpack.packb(to_wire(item)))
        if page and (filled + needed > size or len(page) == most):
            pages.append(tuple(page))
            page, filled = [], 0
        page.append(item)
        filled += needed
    return [*pages, tuple(page)] if page or not pages else pages
