"""Run the measurements: ``python -m bench [NAME ...]``.

The exit code is 0 when everything could be measured, whether or not the goals were met.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    actor_tell,
    cancel,
    cold_start,
    engine_restart,
    federated,
    health_cycle,
    logs,
    loopback,
    node_scan,
    reconnect,
    result,
    row_queries,
    rpc,
    upload,
)
from bench.result import Result

BENCHMARKS: dict[str, Callable[[], list[Result]]] = {
    "actor_tell": actor_tell.run,
    "rpc": rpc.run,
    "health_cycle": health_cycle.run,
    "reconnect": reconnect.run,
    "federated": federated.run,
    "cold_start": cold_start.run,
    "loopback": loopback.run,
    "node_scan": node_scan.run,
    "upload": upload.run,
    "row_queries": row_queries.run,
    "engine_restart": engine_restart.run,
    "cancel": cancel.run,
}
FOLDER = Path(__file__).parent


def main() -> int:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    logs.configure()
    results: list[Result] = []
    failed = False
    for name in dict.fromkeys(names):
        print(f"bench: {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            results.extend(BENCHMARKS[name]())
        except Exception:
            traceback.print_exc()
            failed = True
        print(f"bench: {name} took {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    result.write(results, FOLDER)
    show(results)
    return int(failed)


def show(results: Sequence[Result]) -> None:
    """Print a table."""
    table = Table(*(f.capitalize() for f in ("name", "value", "reference", "ratio", "unit", "n", "goal", "met")))
    for r in results:
        numbers = ("" if number is None else f"{number:.4g}" for number in (r.value, r.reference, r.ratio))
        goal = "" if r.goal is None else f"{r.goal:g}"
        table.add_row(r.name, *numbers, r.unit, str(r.n), goal, {None: "", True: "yes", False: "no"}[r.met])
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
