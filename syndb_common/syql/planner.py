"""Query -> :class:`Plan`: names resolved, kinds checked, grouping rules applied, data sets chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlglot import exp

from syndb_common.errors import NotSupported, SyQLError, UnknownName
from syndb_common.syql.dialect import render
from syndb_common.syql.kinds import BOOLEAN, ROWS
from syndb_common.syql.locality import attribute, conjunction, conjuncts, known_while_planning, select_versions, steps
from syndb_common.syql.parse import Query
from syndb_common.syql.plan import (
    Aggregate,
    AttributeRef,
    Call,
    ColumnRef,
    Expression,
    Function,
    LiteralValue,
    Operator,
    Order,
    Output,
    Plan,
    PlannedDataset,
    fingerprint,
    walk,
)
from syndb_common.syql.resolve import MAX_NODES, Resolved, Resolver, nearest
from syndb_common.tables import TABLES
from syndb_common.tables.model import Table
from syndb_common.tables.versions import PublishedVersion

MAX_OUTPUTS, MAX_KEYS, MAX_LIMIT = 500, 50, 2**53
MAX_CONDITIONS = 500
MAX_STEPS = 5_000_000
"""Work spent on conditions on metadata over the whole catalogue; about a second."""
_CLAUSES = ("kind", "expressions", "from_", "where", "group", "having", "order", "limit", "offset", "distinct")
_LATER = {
    "with_": "WITH",
    "joins": "JOIN",
    "laterals": "LATERAL",
    "windows": "WINDOW",
    "qualify": "QUALIFY",
    "into": "INTO",
}
_UNSAFE_IN_NAMES = re.compile(r"[\\\"`\x00-\x1f\x7f\ud800-\udfff]")


def plan(query: Query, catalogue: Iterable[PublishedVersion]) -> Plan:
    """The typed plan of a query over the newest published version of each data set in the catalogue.

    Conditions on metadata, ``dataset_id`` and ``version`` choose the data sets; when none is left the plan names
    none and its result is empty.

    Raises:
        UnknownName: a table, column, function, or a data set compared with ``dataset``, does not exist.
        NotSupported: SQL that SyQL does not have, or not yet.
        SyQLError: the query breaks a rule; like the others it says where.
    """
    return _Planner(query, list(catalogue)).plan()


@dataclass(frozen=True, slots=True)
class _Named:
    """An output with the place it was written at."""

    output: Output
    resolved: Resolved
    node: exp.Expr


class _Planner:
    def __init__(self, query: Query, catalogue: list[PublishedVersion]) -> None:
        self.tree, self.catalogue = query.tree, catalogue
        self.names = self._table(query.text)

    def plan(self) -> Plan:
        tree, names = self.tree, self.names
        self._clauses()
        where = self._condition(tree.args.get("where"), names)
        self._without_aggregate(where, tree.args.get("where"), "WHERE", "use HAVING")
        outputs, keys = self._outputs_and_keys()
        named = {item.output.name.lower(): item.resolved for item in outputs}
        having = self._condition(tree.args.get("having"), replace(names, aliases=named))
        order = self._order(replace(names, aliases=named, aliases_first=True), outputs)
        drafted = Plan(
            table=names.table.name,
            datasets=(),
            outputs=tuple(item.output for item in outputs),
            group_by=tuple(keys),
            having=having,
            order_by=tuple(item for item, _ in order),
            limit=self._bound("limit"),
            offset=self._bound("offset") or 0,
        )
        if having is not None and not drafted.is_aggregate:
            names.fail(SyQLError, "HAVING needs GROUP BY or an aggregate", tree.args["having"], hint="use WHERE")
        if drafted.is_aggregate:
            self._grouped(drafted, outputs, [node for _, node in order])
        return self._with_datasets(drafted, where)

    def _table(self, text: str) -> Resolver:
        empty = Resolver(text, next(iter(TABLES.values())), "")
        # What is not there yet comes first: WITH names a table that would be unknown otherwise.
        for clause, value in self.tree.args.items():
            if value and clause in _LATER:
                empty.fail(
                    NotSupported,
                    f"{_LATER[clause]} is not part of SyQL yet",
                    value[0] if isinstance(value, list) else value,
                )
        source = self.tree.args.get("from_")
        if source is None:
            empty.fail(SyQLError, "the query names no table", self.tree, hint="add FROM and the name of a table")
        node = source.this
        if not isinstance(node, exp.Table):
            empty.fail(NotSupported, "a query in FROM is not part of SyQL yet", node)
        if isinstance(node.this, exp.Anonymous | exp.Func):
            name = str(node.this.this) if isinstance(node.this, exp.Anonymous) else node.this.sql_name()
            empty.fail(UnknownName, f"function `{name}` is not part of SyQL", node, name)
        name, database = node.name, node.db.lower()
        table = TABLES.get(name.lower()) if database in ("", "syndb") and not node.catalog else None
        if table is None:
            near = nearest(name, TABLES)
            fits = f"; did you mean `{near[0]}`?" if near else ""
            hint = f"tables: {', '.join(TABLES)}"
            written = ".".join(part for part in (node.catalog, node.db, name) if part)
            raise empty.error(UnknownName, f"unknown table `{written}`{fits}", node, written, near, hint)
        if node.args.get("joins"):
            empty.fail(NotSupported, "JOIN is not part of SyQL yet", node)
        empty.only(node, "this", "db", "alias")
        if (alias := node.args.get("alias")) is not None:
            empty.only(alias, "this")
            if not isinstance(alias.this, exp.Identifier):
                empty.refuse(alias)
        if node.alias.lower() == "dataset":
            empty.fail(SyQLError, "`dataset` already names the metadata and cannot be a table's name", node)
        return Resolver(text, table, node.alias)

    def _clauses(self) -> None:
        self.names.only(self.tree, *_CLAUSES)
        if self.tree.args.get("kind"):
            self.names.refuse(self.tree, str(self.tree.args["kind"]))

    def _condition(self, clause: exp.Expr | None, names: Resolver) -> Expression | None:
        if clause is None:
            return None
        resolved = names.resolve(clause.this)
        if resolved.kind != BOOLEAN:
            what = type(clause).__name__.upper()
            names.fail(SyQLError, f"{what} needs a condition, something that is true or false", clause.this)
        return resolved.expression

    def _without_aggregate(self, found: Expression | None, node: exp.Expr | None, where: str, hint: str) -> None:
        if found is not None and node is not None and _aggregates(found):
            self.names.fail(SyQLError, f"an aggregate cannot stand in {where}", node, hint=hint)

    def _outputs_and_keys(self) -> tuple[list[_Named], list[Expression]]:
        tree, names = self.tree, self.names
        group, selected = tree.args.get("group"), tree.expressions
        starred = len(selected) == 1 and isinstance(selected[0], exp.Star) and not selected[0].args.get("except_")
        if group is not None and starred:
            keys = self._keys(group, [])
            written = [*(node for node in group.expressions), exp.Anonymous(this="count", expressions=[exp.Star()])]
            rows = Resolved(Aggregate(function=Function.COUNT_ALL), ROWS)
            resolved = [*(names.resolve(node) for node in group.expressions), rows]
            return [self._named(node, one) for node, one in zip(written, resolved, strict=True)], keys
        if len(selected) > MAX_OUTPUTS:
            names.fail(NotSupported, f"a query has at most {MAX_OUTPUTS} columns", tree)
        outputs = [item for node in selected for item in self._selected(node)]
        self._unique(outputs)
        if len(outputs) > MAX_OUTPUTS:
            names.fail(NotSupported, f"a query has at most {MAX_OUTPUTS} columns", tree)
        keys = self._keys(group, outputs) if group is not None else []
        if (distinct := tree.args.get("distinct")) is not None:
            names.only(distinct, "expressions")
            keys = self._distinct(distinct, group, outputs)
        if len(keys) > MAX_KEYS:
            names.fail(NotSupported, f"a query groups by at most {MAX_KEYS} keys", tree)
        return outputs, keys

    def _selected(self, node: exp.Expr) -> list[_Named]:
        names = self.names
        if isinstance(node, exp.Star):
            names.only(node)
            columns = (exp.column(column.name, quoted=False) for column in names.table.columns)
            return [self._named(column, names.resolve(column)) for column in columns]
        if isinstance(node, exp.Alias):
            names.only(node, "this", "alias")
            return [self._named(node.this, names.resolve(node.this), node.alias)]
        return [self._named(node, names.resolve(node))]

    def _named(self, node: exp.Expr, resolved: Resolved, alias: str = "") -> _Named:
        if alias and (_UNSAFE_IN_NAMES.search(alias) or alias.startswith("__") or len(alias) > 200):
            self.names.fail(
                SyQLError,
                "a column's name has at most 200 characters, no quotes, backslashes or control characters, and does "
                "not begin with two underscores",
                node,
                alias,
            )
        name = alias or self._default_name(node)
        return _Named(Output(name=name, expression=resolved.expression), resolved, node)

    def _default_name(self, node: exp.Expr) -> str:
        if isinstance(node, exp.Column) and not node.table:
            return node.name.lower()
        return _UNSAFE_IN_NAMES.sub("", render(node).lower()).lstrip("_")[:200] or "column"

    def _unique(self, outputs: list[_Named]) -> None:
        seen: set[str] = set()
        for item in outputs:
            if item.output.name in seen:
                hint = "give one of them another name with AS"
                message = f"two columns of the result are called `{item.output.name}`"
                self.names.fail(SyQLError, message, item.node, item.output.name, hint=hint)
            seen.add(item.output.name)

    def _keys(self, group: exp.Expr, outputs: list[_Named]) -> list[Expression]:
        self.names.only(group, "expressions")
        names = replace(self.names, aliases={item.output.name.lower(): item.resolved for item in outputs})
        keys: dict[str, Expression] = {}
        if len(group.expressions) > MAX_KEYS:
            self.names.fail(NotSupported, f"a query groups by at most {MAX_KEYS} keys", group)
        for node in group.expressions:
            resolved = self._by_position(node, outputs, "GROUP BY") or names.resolve(node)
            self._without_aggregate(resolved.expression, node, "GROUP BY", "")
            self._refers(resolved.expression, node, "GROUP BY")
            keys.setdefault(fingerprint(resolved.expression), resolved.expression)
        return list(keys.values())

    def _by_position(self, node: exp.Expr, outputs: list[_Named], clause: str) -> Resolved | None:
        if not isinstance(node, exp.Literal) or node.is_string:
            return None
        if not str(node.this).isdigit() or not 1 <= int(str(node.this)[:9]) <= len(outputs):
            self.names.fail(SyQLError, f"{clause} {node.this} is not the number of a selected column", node)
        return outputs[int(node.this) - 1].resolved

    def _refers(self, expression: Expression, node: exp.Expr, clause: str) -> None:
        if not any(isinstance(found, ColumnRef | AttributeRef | Aggregate) for found in walk(expression)):
            self.names.fail(SyQLError, f"{clause} needs a column; this is the same for every row", node)

    def _distinct(self, node: exp.Expr, group: object, outputs: list[_Named]) -> list[Expression]:
        if node.args.get("expressions"):
            self.names.fail(NotSupported, "DISTINCT ON is not part of SyQL", node)
        if group is not None or any(_aggregates(item.output.expression) for item in outputs):
            self.names.fail(NotSupported, "DISTINCT together with aggregates is not part of SyQL", self.tree)
        for item in outputs:
            self._refers(item.output.expression, item.node, "DISTINCT")
        return list({fingerprint(item.output.expression): item.output.expression for item in outputs}.values())

    def _order(self, names: Resolver, outputs: list[_Named]) -> list[tuple[Order, exp.Expr]]:
        clause = self.tree.args.get("order")
        if clause is None:
            return []
        names.only(clause, "expressions")
        if len(clause.expressions) > MAX_KEYS:
            names.fail(NotSupported, f"a query orders by at most {MAX_KEYS} keys", clause)
        found, size = [], 0
        for node in clause.expressions:
            names.only(node, "this", "desc", "nulls_first")
            if node.args.get("nulls_first"):
                names.fail(NotSupported, "NULLS FIRST is not part of SyQL; NULLs come last", node)
            resolved = self._by_position(node.this, outputs, "ORDER BY") or names.resolve(node.this)
            self._refers(resolved.expression, node, "ORDER BY")
            size += resolved.size
            if size > MAX_NODES:
                names.fail(NotSupported, "the keys of ORDER BY are too large together", node)
            found.append((Order(expression=resolved.expression, descending=bool(node.args.get("desc"))), node))
        return found

    def _bound(self, clause: str) -> int | None:
        node = self.tree.args.get(clause)
        if node is None:
            return None
        self.names.only(node, "this", "expression")
        value = node.expression
        text = str(value.this) if isinstance(value, exp.Literal) and not value.is_string else ""
        if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_LIMIT):
            self.names.fail(SyQLError, f"{clause.upper()} needs a whole number of at most 2^53", node)
        return int(text)

    def _grouped(self, drafted: Plan, outputs: list[_Named], order: list[exp.Expr]) -> None:
        """Every result must be made of keys, aggregates and constants."""
        keys = {fingerprint(key) for key in drafted.group_by}
        places = [(item.output.expression, item.node) for item in outputs]
        places += [(item.expression, node) for item, node in zip(drafted.order_by, order, strict=True)]
        if drafted.having is not None:
            places.append((drafted.having, self.tree.args["having"].this))
        for expression, node in places:
            loose = ungrouped(expression, keys)
            if loose is not None:
                at = next((c for c in node.find_all(exp.Column) if c.name.lower() == loose), node)
                hint = f"add `{loose}` to GROUP BY, or take COUNT, SUM, AVG, MIN or MAX of it"
                self.names.fail(SyQLError, f"`{loose}` is neither grouped nor aggregated", at, loose, hint=hint)

    def _with_datasets(self, drafted: Plan, where: Expression | None) -> Plan:
        parts = conjuncts(where)
        if len(parts) > MAX_CONDITIONS:
            self.names.fail(
                NotSupported,
                f"WHERE has at most {MAX_CONDITIONS} conditions joined by AND",
                self.tree.args["where"],
                hint="write values of one column as a list: name NOT IN ('a', 'b')",
            )
        known = {published.metadata.dataset for published in self.catalogue}
        local: list[Expression] = []
        asked: list[Expression] = []
        for part in parts:
            self._datasets_exist(part, known)
            (local if known_while_planning(part) else asked).append(part)
        if sum(map(steps, local)) * len(self.catalogue) > MAX_STEPS:
            self.names.fail(
                NotSupported,
                "the conditions on metadata are too many for the data sets there are",
                self.tree.args["where"],
                hint="write values of one column as a list: dataset IN ('a', 'b')",
            )
        kept = conjunction(asked)
        drafted = drafted.model_copy(update={"where": kept})
        used = sorted({n.name for e in drafted.expressions() for n in walk(e) if isinstance(n, AttributeRef)})
        datasets = tuple(
            PlannedDataset(
                dataset_id=published.dataset_id,
                version=published.version,
                attributes={name: attribute(published, name) for name in used},
            )
            for published in select_versions(self.catalogue, local)
        )
        if len(datasets) > 10_000:
            raise NotSupported("the query reads more than 10,000 data sets", hint="choose some by their metadata")
        needed = minimum_schema(self.names.table, drafted.expressions())
        return drafted.model_copy(update={"datasets": datasets, "minimum_schema": needed})

    def _datasets_exist(self, condition: Expression, known: set[str]) -> None:
        """A data set named in a comparison must be in the catalogue: a typing error is no empty result."""
        for node in walk(condition):
            if not isinstance(node, Call) or node.operator not in (Operator.EQ, Operator.NE, Operator.IN):
                continue
            if AttributeRef(name="dataset") not in node.arguments:
                continue
            for argument in node.arguments:
                if isinstance(argument, LiteralValue) and argument.value not in known:
                    self._unknown_dataset(str(argument.value), known)

    def _unknown_dataset(self, name: str, known: set[str]) -> None:
        near = nearest(name, known)
        fits = f"; did you mean `{near[0]}`?" if near else ""
        listed = ", ".join(sorted(known)[:20]) or "none that can be read here"
        literals = self.tree.args["where"].find_all(exp.Literal)
        at = next((node for node in literals if node.is_string and str(node.this) == name), self.tree)
        raise self.names.error(UnknownName, f"unknown data set `{name}`{fits}", at, name, near, f"data sets: {listed}")


def ungrouped(expression: Expression, keys: set[str]) -> str | None:
    """The first column that stands outside of keys (given by fingerprint) and aggregates, or None."""
    pending: list[Expression] = [expression]
    while pending:
        node = pending.pop()
        if isinstance(node, Aggregate) or (keys and fingerprint(node) in keys):
            continue
        if isinstance(node, ColumnRef | AttributeRef):
            return node.name
        if isinstance(node, Call):
            pending.extend(reversed(node.arguments))
    return None


def minimum_schema(table: Table, expressions: Iterable[Expression]) -> int:
    """The lowest schema version that has the table and every column of it that is used."""
    used = {node.name for expression in expressions for node in walk(expression) if isinstance(node, ColumnRef)}
    return max(table.since, *(column.since for column in table.columns if column.name in used), 1)


def _aggregates(expression: Expression) -> bool:
    return any(isinstance(node, Aggregate) for node in walk(expression))
