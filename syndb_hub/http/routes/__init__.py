"""The operations by subject; the app serves the sum of them."""

from __future__ import annotations

from syndb_hub.http.operation import Operation
from syndb_hub.http.routes import (
    benchmarks,
    clusters,
    downloads,
    federation,
    flight,
    jobs,
    joining,
    meta_analysis,
    syql,
    system,
)

OPERATIONS: tuple[Operation, ...] = (
    *system.operations.all,
    *federation.operations.all,
    *clusters.operations.all,
    *joining.operations.all,
    *benchmarks.operations.all,
    *syql.operations.all,
    *jobs.operations.all,
    *downloads.operations.all,
    *flight.operations.all,
    *meta_analysis.operations.all,
)
