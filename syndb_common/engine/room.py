"""Room on the disk of ClickHouse.

ClickHouse was seen to store a damaged part, and to keep nothing of an insert, without an error when another program
took the last of the disk while rows were written, and on a full disk it can neither commit nor delete. So uploads leave
a reserve, and what was written while that was used up is read back; commit rows and records always are.
"""

# ruff: noqa: S608 - names are ours

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from syndb_common.engine.failures import disk_full, said_by_clickhouse
from syndb_common.engine.work import Keeper, Work
from syndb_common.errors import SynDBError

RESERVE_BYTES: Final = 64 * 1024**2
"""What uploads leave free, for all else that the engine writes."""
LEAST_BYTES: Final = 1024**2
"""What a deletion needs before it frees any."""


def check_room(work: Work, least: int = RESERVE_BYTES) -> None:
    """Raise when less than ``least`` bytes are free.

    Raises:
        EngineUnavailable: the disk is full; what is stored stays, and the same works once there is room.
    """
    if _free(work) < least:
        raise disk_full()


def check_written(work: Work, place: str) -> None:
    """After rows were written into the table ``place``: read it back when the reserve is used up.

    Raises:
        DataError: it is damaged.
    """
    if _free(work) < RESERVE_BYTES:
        work.read_all(f"SELECT count() FROM {place} WHERE NOT ignore(*)")


def check_cause(keeper: Keeper, error: SynDBError, places: Iterable[str]) -> None:
    """After ``error`` about tables ``places``: on a full disk ClickHouse says many things, not always that it is full.

    Raises:
        EngineUnavailable: the disk is full.
        DataError: a table is damaged.
    """
    if said_by_clickhouse(error):
        with keeper.working() as work:
            for place in places:
                check_written(work, place)
            check_room(work)


def _free(work: Work) -> int:
    found = work.read_all("SELECT free_space FROM system.disks WHERE name = 'default'").column(0).to_pylist()
    return int(found[0]) if found else RESERVE_BYTES
