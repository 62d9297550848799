"""Meta-analysis: one mean per data set, computed where the data are, pooled here."""

from __future__ import annotations

import difflib
import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import trio
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, PositiveFloat, model_validator
from sqlglot import exp

from syndb_common.errors import InvalidRequest, LimitExceeded, SyQLError, TooManyRequests, UnknownName
from syndb_common.stats import MetaAnalysis, meta_analysis
from syndb_common.stats.meta import ESTIMATORS
from syndb_common.syql import Scope, parse
from syndb_common.tables.model import METADATA, TABLES, Kind
from syndb_hub.auth.principal import Right
from syndb_hub.federation.answers import Provenance, Require
from syndb_hub.http.operation import Call, Operations

MAX_STUDIES = 10_000
"""Studies of one analysis: far beyond any real one, small enough to pool within a second."""

MAX_WAITING = 32
"""Analyses that may wait for their turn; they are not jobs, so nobody would come back for them later."""

operations = Operations("meta-analysis")
_asking = trio.CapacityLimiter(4)
_pooling = trio.CapacityLimiter(2)


def _known_method(method: str) -> str:
    if method not in ESTIMATORS:
        raise ValueError(f"unknown method; use one of {', '.join(ESTIMATORS)}")
    return method


Method = Annotated[str, AfterValidator(_known_method), Field(json_schema_extra={"enum": list(ESTIMATORS)})]
Test = Literal["wald", "hksj"]


class Pooling(BaseModel):
    """How studies are pooled; the names are metafor's."""

    model_config = ConfigDict(extra="forbid")

    method: Method = Field(default="REML", description="estimator of the variance between studies")
    test: Test = Field(default="wald", description="`hksj` adjusts for few studies (Hartung-Knapp-Sidik-Jonkman)")


class AnalyzeBody(Pooling):
    """Which means to compare, and how to pool them."""

    table: str = Field(max_length=100, description="one of the tables of GET /v1/schema")
    metric: str = Field(max_length=100, description="a numeric column of the table")
    group_by: str | None = Field(default=None, max_length=100, description="a category, one analysis for each value")
    dataset_ids: list[UUID] | None = Field(default=None, min_length=1, max_length=1000, description="only these")
    where: str | None = Field(default=None, max_length=10_000, description="SyQL condition on the rows")
    scope: Scope = Scope.LOCAL
    cluster_ids: list[UUID] | None = Field(default=None, max_length=1000, description="ask only these nodes")
    require: Require = Field(default="any", description="`all` fails unless every node with matching data answered")


class Study(BaseModel):
    """One data set's part. ``excluded`` says why it is not pooled; ``weight`` is in percent."""

    dataset: str
    dataset_id: UUID
    n: int
    mean: float | None
    sd: float | None
    yi: float | None
    vi: float | None
    weight: float | None = None
    excluded: str = ""


class Pooled(BaseModel):
    """The pooled effect and how much the studies differ; see ``syndb_common.stats.meta_analysis``."""

    estimate: float
    se: float
    ci: tuple[float, float] = Field(description="95 % confidence interval")
    pi: tuple[float, float] = Field(description="95 % prediction interval for a further study")
    tau2: float = Field(description="variance between studies")
    i2: float = Field(description="percent of the variance that lies between studies")
    h2: float
    q: float = Field(description="Cochran's Q")
    q_p: float
    statistic: float
    p: float
    weights: list[float] = Field(description="percent, in the order of the pooled studies")
    k: int = Field(description="number of pooled studies")
    method: str
    test: str

    @classmethod
    def of(cls, result: MetaAnalysis) -> Pooled:
        """The same numbers as JSON."""
        return cls(**{name: getattr(result, name) for name in cls.model_fields})


class Group(BaseModel):
    """One analysis; ``note`` says why nothing could be pooled."""

    group: str | None
    studies: list[Study]
    pooled: Pooled | None
    note: str = ""


class Analyzed(BaseModel):
    """The analyses, the query whose answer they rest on, and where that came from."""

    table: str
    metric: str
    unit: str
    group_by: str | None
    query: str
    groups: list[Group]
    provenance: Provenance


class EffectStudy(BaseModel):
    """One study by its summary: number of observations, their mean and standard deviation."""

    model_config = ConfigDict(extra="forbid")

    n: int = Field(ge=2, le=2**53)
    mean: FiniteFloat
    sd: Annotated[PositiveFloat, Field(allow_inf_nan=False)]


class EffectsBody(Pooling):
    """Effects with their variances, or studies from which both are made."""

    yi: list[FiniteFloat] | None = Field(default=None, min_length=1, max_length=MAX_STUDIES)
    vi: list[FiniteFloat] | None = Field(default=None, min_length=1, max_length=MAX_STUDIES)
    studies: list[EffectStudy] | None = Field(default=None, min_length=1, max_length=MAX_STUDIES)

    @model_validator(mode="after")
    def _one_form(self) -> EffectsBody:
        pairs = self.yi is not None and self.vi is not None and self.studies is None
        summaries = self.yi is None and self.vi is None and self.studies is not None
        if not (pairs or summaries):
            raise ValueError("give either yi and vi, or studies")
        return self

    def effects(self) -> tuple[Sequence[float], Sequence[float]]:
        """Effects and their sampling variances."""
        if self.studies is not None:
            return [study.mean for study in self.studies], [study.sd**2 / study.n for study in self.studies]
        return self.yi or (), self.vi or ()


@operations.post("/v1/meta-analysis/analyze", right=Right.QUERY)
async def analyze(call: Call, body: AnalyzeBody) -> Analyzed:
    """Pool the mean of a metric over data sets.

    Each data set is one study with effect mean and sampling variance sd^2 / n. The nodes compute number, mean and
    variance; rows do not travel. A few analyses run at once; others wait their turn, and are refused with 429 when it
    does not come within half of the request's time.
    """
    question = Question.of(body)
    seconds = call.services.settings.request_timeout_seconds
    until = trio.current_time() + 0.9 * seconds
    async with _turn(0.5 * seconds):
        answered = await call.services.queries.run(
            question.text,
            scope=body.scope,
            cluster_ids=body.cluster_ids,
            seconds=until - trio.current_time(),
            require=body.require,
        )
    if answered.table.num_rows > MAX_STUDIES:
        raise LimitExceeded(
            f"{answered.table.num_rows:,} studies; an analysis may have {MAX_STUDIES:,}", hint="Narrow `where`."
        )
    rows = answered.table.to_pylist()
    groups = await trio.to_thread.run_sync(_pool_groups, rows, body.method, body.test, limiter=_pooling)
    return Analyzed(
        table=body.table,
        metric=body.metric,
        unit=question.unit,
        group_by=body.group_by,
        query=question.text,
        groups=groups,
        provenance=answered.provenance,
    )


@asynccontextmanager
async def _turn(seconds: float) -> AsyncIterator[None]:
    """Room for one analysis at the nodes, waited for so long."""
    with trio.move_on_after(seconds if _asking.statistics().tasks_waiting < MAX_WAITING else 0) as waiting:
        await _asking.acquire()
    if waiting.cancelled_caught:
        raise TooManyRequests("too many analyses run already", hint="Wait until some have ended.")
    try:
        yield
    finally:
        _asking.release()


@operations.post("/v1/meta-analysis/effects", right=Right.QUERY)
async def pool_effects(call: Call, body: EffectsBody) -> Pooled:
    """Pool given effects.

    Either `yi` with sampling variances `vi`, or `studies` with `n`, `mean` and `sd`, whose means are pooled.
    """
    yi, vi = body.effects()

    def pool() -> MetaAnalysis:
        return meta_analysis(yi, vi, method=body.method, test=body.test)

    return Pooled.of(await trio.to_thread.run_sync(pool, limiter=_pooling))


@dataclass(frozen=True, slots=True)
class Question:
    """The SyQL query behind an analysis, made of checked names, and the unit of its means."""

    text: str
    unit: str

    @classmethod
    def of(cls, body: AnalyzeBody) -> Question:
        """Check every name and build the query.

        Raises:
            UnknownName: table, metric or group does not exist.
            InvalidRequest: the metric is not numeric, the group is no category, the condition is not one.
        """
        table = TABLES.get(body.table)
        if table is None:
            raise _unknown("table", body.table, TABLES)
        metric = table.column(body.metric)
        numeric = [column.name for column in table.columns if column.numeric]
        if metric is None:
            raise _unknown("column", body.metric, numeric)
        if not metric.numeric:
            raise InvalidRequest(f"metric: {metric.name!r} is not numeric", hint=f"Numeric are {', '.join(numeric)}.")
        keys = ["dataset", "dataset_id"]
        if body.group_by is not None:
            categories = [column.name for column in table.columns if column.kind is Kind.CATEGORY]
            groups = [*categories, *(name for name in METADATA if name not in categories and name != "dataset")]
            if body.group_by not in groups:
                raise _unknown("group", body.group_by, groups)
            keys.append(body.group_by)
        conditions = []
        if body.where is not None:
            conditions.append(f"({_condition(body.where)})")
        if body.dataset_ids is not None:
            conditions.append(f"dataset_id IN ({', '.join(repr(str(each)) for each in body.dataset_ids)})")
        statistics = [
            f"{function}({metric.name}) AS study_{name}"
            for function, name in (("COUNT", "n"), ("AVG", "mean"), ("VAR_SAMP", "variance"))
        ]
        words = ["SELECT", ", ".join([*keys, *statistics]), "FROM", table.name]
        if conditions:
            words += ["WHERE", " AND ".join(conditions)]
        words += ["GROUP BY", ", ".join(keys), "ORDER BY", ", ".join(keys), "SCOPE", body.scope.value]
        return cls(" ".join(words), metric.unit)


def _unknown(what: str, name: str, known: Iterable[str]) -> UnknownName:
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"Use one of {', '.join(known)}."
    return UnknownName(f"there is no {what} {name!r}", hint=hint, offending=name)


def _condition(text: str) -> str:
    """The text, if it is one condition and nothing beyond it that would change the query around it."""
    hint = "Write it as after WHERE: synapse_type = 'chemical' AND gaba > 0.5"
    try:
        query = parse(f"SELECT dataset FROM neurons WHERE (\n{text})")  # noqa: S608  (parsed, never executed)
    except SyQLError as error:
        line = error.details.get("line", 1)
        message = error.message.replace(f"(line {line}, ", f"(line {line - 1}, ")  # ours stands before theirs
        details = error.details | {"line": line - 1} if line > 1 else {}
        raise type(error)(f"where: {message}", hint=error.hint or hint, **details) from None
    parts = {name for name, value in query.tree.args.items() if value}
    directives = (query.scope, query.download)
    whole = parts == {"expressions", "from_", "where"} and directives == (None, None)
    if not whole or not isinstance(query.tree.args["where"].this, exp.Paren):
        raise InvalidRequest("where: this is not one condition", hint=hint)
    return text


def _pool_groups(rows: list[dict[str, Any]], method: str, test: str) -> list[Group]:
    fixed = {"dataset_id", "dataset", "study_n", "study_mean", "study_variance"}
    groups: dict[str | None, list[Study]] = {}
    for row in rows:
        value = next((row[name] for name in row if name not in fixed), None)
        groups.setdefault(None if value is None else str(value), []).append(_study(row))
    in_order = sorted(groups.items(), key=lambda item: (item[0] is None, item[0] or ""))
    return [_pool(group, studies, method, test) for group, studies in in_order]


def _study(row: dict[str, Any]) -> Study:
    found = row["dataset_id"]
    n, mean, variance = row["study_n"], row["study_mean"], row["study_variance"]
    computable = n >= 2 and mean is not None and variance is not None and math.isfinite(variance)
    study = Study(
        dataset=row["dataset"],
        dataset_id=UUID(bytes=found) if isinstance(found, bytes) else UUID(str(found)),
        n=n,
        mean=mean,
        sd=math.sqrt(variance) if computable else None,
        yi=mean,
        vi=variance / n if computable else None,
    )
    if not computable:
        return study.model_copy(update={"excluded": "fewer than two values"})
    if variance == 0:
        return study.model_copy(update={"excluded": "all values are equal, so that the mean has no variance"})
    return study


def _pool(group: str | None, studies: list[Study], method: str, test: str) -> Group:
    used = [study for study in studies if not study.excluded]
    if not used:
        return Group(group=group, studies=studies, pooled=None, note="no study has two different values")
    yi = [study.yi for study in used if study.yi is not None]
    vi = [study.vi for study in used if study.vi is not None]
    try:
        result = meta_analysis(yi, vi, method=method, test=test)
    except InvalidRequest as error:
        return Group(group=group, studies=studies, pooled=None, note=error.message)
    weights = iter(result.weights)
    weighted = [study if study.excluded else study.model_copy(update={"weight": next(weights)}) for study in studies]
    return Group(group=group, studies=weighted, pooled=Pooled.of(result))
