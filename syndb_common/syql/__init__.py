"""SyQL: SQL's SELECT over the tables of a federation, with data-set metadata as columns.

Text becomes a :class:`Query`, a query and a catalogue become a typed :class:`Plan`, and only plans travel. Whoever
holds data compiles the plan to ClickHouse's SQL itself, in two parts: what each node computes of its own rows, and
what the hub makes of the nodes' results.

::

    query = parse("SELECT dataset, AVG(synapse_count) AS mean FROM synapses GROUP BY dataset SCOPE federation")
    question = plan(query, catalogue)               # names, kinds and data sets resolved
    at_node = to_clickhouse(question, "node")       # ... FROM syndb.synapses WHERE dataset_id = ... GROUP BY ...
    at_hub = to_clickhouse(question, "hub")         # ... FROM partials: one row per node and group -> the answer

``parse`` bounds and locates, ``resolve`` and ``planner`` name what would fit, ``check`` is the gate for plans from
elsewhere, ``partials`` says what travels back, ``moments`` and ``finals`` keep its digits.
"""

from syndb_common.syql.clickhouse import partial_schema, to_clickhouse
from syndb_common.syql.parse import Download, Query, parse
from syndb_common.syql.partials import conform, needs_care
from syndb_common.syql.plan import Plan, Scope
from syndb_common.syql.planner import plan

__all__ = [
    "Download",
    "Plan",
    "Query",
    "Scope",
    "conform",
    "needs_care",
    "parse",
    "partial_schema",
    "plan",
    "to_clickhouse",
]
