"""One measurement, and the files that keep them together with the machine they were made on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = ("chdb", "pyarrow", "libp2p", "trio")


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement under a name of its own.

    Attributes:
        value: ours, in ``unit``; the median of ``n`` measurements.
        reference: the same work without SynDB, in the same unit; None where there is nothing to compare with.
        ratio: value / reference.
        goal: the most that the ratio, or without a reference the value, should be, and the least for a rate; None for
            mere information.
        met: whether it was; None without a goal.
    """

    name: str
    value: float
    reference: float | None
    ratio: float | None
    unit: str
    n: int
    goal: float | None
    met: bool | None


def compared(name: str, value: float, reference: float, unit: str, n: int, *, goal: float) -> Result:
    """A cost beside that of the reference; the goal is the largest ratio."""
    ratio = value / reference
    return Result(name, value, reference, ratio, unit, n, goal, ratio <= goal)


def rate(name: str, value: float, reference: float, unit: str, n: int, *, goal: float | None = None) -> Result:
    """A rate beside that of the reference; the goal, if there is one, is the smallest ratio."""
    ratio = value / reference
    return Result(name, value, reference, ratio, unit, n, goal, None if goal is None else ratio >= goal)


def measured(name: str, value: float, unit: str, n: int, *, goal: float | None = None) -> Result:
    """A cost that stands alone; the goal, if there is one, is the largest value."""
    return Result(name, value, None, None, unit, n, goal, None if goal is None else value <= goal)


def write(results: Sequence[Result], folder: Path) -> None:
    """Write ``results.json`` and ``machine.json``, each complete or not at all.

    Raises:
        ValueError: a name occurs twice.
    """
    names = [result.name for result in results]
    if len(set(names)) != len(names):
        raise ValueError(f"one entry per name, got {names}")
    _replace(folder / "results.json", [asdict(result) for result in results])
    _replace(folder / "machine.json", machine())


def machine() -> dict[str, object]:
    """What the figures depend on: processor, memory, kernel, versions, date."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_GB": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1024**2, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _replace(path: Path, content: object) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(path)
