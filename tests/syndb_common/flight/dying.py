"""Harming an engine process at a chosen statement of its own, from outside (:mod:`.dying_engine` is its inside)."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from syndb_common.engine import lock


@dataclass(frozen=True)
class Stage:
    """A statement of the engine's, by regular expression, ``skip`` of them passed over."""

    at: str
    when: str
    skip: int = 0


STAGES = {
    "begin": Stage("CREATE TABLE syndb_staging", "before"),
    "staging half made": Stage("ADD COLUMN", "before"),
    "upload recorded": Stage("INSERT INTO syndb_records.uploads", "after"),
    "stream recorded": Stage("INSERT INTO syndb_records.uploads", "during", 1),
    "first rows": Stage("INSERT INTO syndb_staging.*neurons", "during"),
    "rows stored": Stage("INSERT INTO syndb_staging.*neurons", "after"),
    "other table": Stage("INSERT INTO syndb_staging.*axons", "before"),
    "all rows stored": Stage("INSERT INTO syndb_staging.*axons", "after"),
    "counting": Stage("SELECT count.. AS n FROM syndb_staging", "before"),
    "checking references": Stage("countIf", "after"),
    "checking ids": Stage("uniqExact", "after"),
    "hashing": Stage("sum.reinterpretAsUInt128.sipHash128", "after"),
    "hashing the second table": Stage("sum.reinterpretAsUInt128.sipHash128", "before", 1),
    "meaning recorded": Stage("INSERT INTO syndb_records.uploads", "during", 3),
    "marks half off": Stage("DROP COLUMN", "after"),
    "marks off": Stage("DROP COLUMN", "after", 1),
    "half in place": Stage("REPLACE PARTITION", "after"),
    "in place": Stage("REPLACE PARTITION", "after", 1),
    "commit row": Stage("INSERT INTO syndb.dataset_versions", "during"),
    "committed": Stage("INSERT INTO syndb.dataset_versions", "after"),
    "audited": Stage("INSERT INTO syndb_records.changes", "after"),
    "outcome recorded": Stage("INSERT INTO syndb_records.uploads", "after", 4),
    "half cleaned up": Stage("DROP TABLE IF EXISTS syndb_staging", "after"),
}
"""Stages of an upload of neurons and axons."""


def mortal_interpreter(folder: Path) -> Path:
    """What stands in for the interpreter that runs engine processes."""
    mortal = folder / "python"
    script = Path(__file__).with_name("dying_engine.py")
    mortal.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{script}" "$@"\n')
    mortal.chmod(0o700)
    return mortal


def harm(base: Path, stage: Stage, how: signal.Signals) -> None:
    """Have the engine process of that folder get a signal at the stage."""
    order = base / lock.FOLDER / "die"
    order.with_suffix(".new").write_text(json.dumps({**asdict(stage), "how": how.value}))
    order.with_suffix(".new").rename(order)


def stopped(pid: int) -> bool:
    """Whether the process stands still."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "T"
