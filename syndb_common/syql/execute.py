"""Plan -> a node's part of the answer, by an engine: the fast form first, the careful one where digits were lost."""

from __future__ import annotations

import pyarrow as pa

from syndb_common.engine.interface import Answer, Engine, Limits, Offer
from syndb_common.syql.clickhouse import partial_schema, to_clickhouse
from syndb_common.syql.partials import conform, needs_care
from syndb_common.syql.plan import Plan


async def node_part(
    engine: Engine, plan: Plan, *, limits: Limits | None = None, query_id: str | None = None
) -> Answer | Offer:
    """A node's part: whole when it is small, else an offer to stream it.

    Whether digits were lost shows only in a whole part; one too large to look at that could have lost some is
    computed again carefully.

    Raises:
        SyQLError: the plan is refused.
        SynDBError: whatever the engine raises.
    """
    part = await engine.answer(to_clickhouse(plan, "node"), limits=limits, query_id=query_id)
    if isinstance(part, Answer):
        if not needs_care(part.table):
            return part
    elif not can_lose_digits(plan):
        return part
    elif query_id is not None:
        await engine.cancel(query_id)
    return await engine.answer(to_clickhouse(plan, "node", careful=True), limits=limits, query_id=query_id)


async def whole_node_part(
    engine: Engine, plan: Plan, *, limits: Limits | None = None, query_id: str | None = None
) -> Answer:
    """A node's part, whole whatever its size; errors as for :func:`node_part`."""
    part = await engine.query(to_clickhouse(plan, "node"), limits=limits, query_id=query_id)
    if not needs_care(part.table):
        return part
    return await engine.query(to_clickhouse(plan, "node", careful=True), limits=limits, query_id=query_id)


def can_lose_digits(plan: Plan) -> bool:
    """Whether the plan has a variance of floats, whose fast form may need the careful one."""
    return any(name.endswith("_rough") for name in partial_schema(plan).names)


def check_partial(plan: Plan, schema: pa.Schema) -> None:
    """Refuse a part whose columns are not those the plan asks for.

    Raises:
        DataError: names or types differ.
    """
    conform(partial_schema(plan), schema.empty_table())


__all__ = ["can_lose_digits", "check_partial", "node_part", "partial_schema", "whole_node_part"]
