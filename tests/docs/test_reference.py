"""Settings, errors, routes, messages and the words of SyQL: documented, and as the code has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from actors.directory import Directory
from actors.remote.policy import RPC_POLICY
from actors.remote.proof import generate_secret
from syndb_common import messages, metrics
from syndb_common.errors import SynDBError
from syndb_common.flight import uploads
from syndb_common.messages import MESSAGES
from syndb_common.syql.plan import (
    Aggregate,
    AttributeRef,
    Call,
    ColumnRef,
    Function,
    LiteralValue,
    Operator,
    Order,
    Output,
    Plan,
    PlannedDataset,
)
from syndb_common.syql.resolve import AGGREGATES, SCALARS
from syndb_common.tables import METADATA, TABLES
from syndb_common.tables.versions import DatasetMetadata, PublishedVersion
from syndb_hub.http.routes import OPERATIONS
from syndb_hub.metrics import readings as hub_readings
from syndb_node.metrics import readings as node_readings
from tests.docs.pages import ROOT, prose, rows, text
from tests.docs.settings_page import page as settings_page

MODELS: tuple[type[BaseModel], ...] = (
    *MESSAGES.values(),
    *(message.reply_type for message in MESSAGES.values()),
    messages.Endpoints,
    messages.Succession,
    messages.OntologyTerm,
    messages.SchemaMigration,
    PublishedVersion,
    DatasetMetadata,
    Plan,
    PlannedDataset,
    Output,
    Order,
    ColumnRef,
    AttributeRef,
    LiteralValue,
    Call,
    Aggregate,
)
"""Every model that travels between hub and node."""


def errors() -> Iterator[type[SynDBError]]:
    pending: list[type[SynDBError]] = [SynDBError]
    seen = set()
    while pending:
        kind = pending.pop()
        if kind not in seen and kind.__module__.startswith("syndb_"):
            seen.add(kind)
            yield kind
            pending.extend(kind.__subclasses__())


def code_spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_setting_is_documented_as_it_is():
    assert text("docs/settings.md") == settings_page(), "write it anew: python -m tests.docs.settings_page"


def test_every_error_code_is_documented_with_its_status_and_exit_code():
    documented = {
        (code_spans(row[0])[0], int(row[1]), int(row[2]))
        for row in rows("docs/api.md")
        if len(row) == 4 and row[1].isdigit()
    }
    assert documented == {(kind.code, kind.http_status, kind.exit_code) for kind in errors()}


def test_every_route_is_documented_under_the_right_it_needs():
    sections = re.split(r"^## ", text("docs/api.md"), flags=re.MULTILINE)
    documented = {}
    for section in sections:
        heading = section.splitlines()[0]
        rights = code_spans(heading)
        if rights or "everybody" in heading:
            for route in re.findall(r"`((?:GET|POST|DELETE|PUT|PATCH) /[^`]*)`", section):
                documented[route] = rights[0] if rights else None
    served = {f"{each.method} {each.path}": each.right.value if each.right else None for each in OPERATIONS}
    assert documented == served


def test_every_message_is_documented_with_its_trust_and_reply():
    documented = {row[0]: row[1:] for row in rows("docs/protocol.md") if len(row) == 5}
    for name, message in MESSAGES.items():
        direction, trust, repeatable, reply = documented.pop(f"`{name}`")
        assert trust == RPC_POLICY[message].value, name
        assert direction == ("hub → node" if trust == "hub" else "node → hub"), name
        assert repeatable == ("yes" if message.idempotent else "no"), name
        assert reply == f"`{message.reply_type.__name__}`", name
    assert not documented


@pytest.mark.parametrize("model", sorted(set(MODELS), key=lambda model: model.__name__), ids=lambda m: m.__name__)
def test_every_field_that_travels_is_documented(model):
    if not model.model_fields:
        return
    documented = [row[1] for row in rows("docs/protocol.md") if row[0] == f"`{model.__name__}`" and len(row) == 2]
    assert len(documented) == 1
    assert set(model.model_fields) <= set(code_spans(documented[0]))


def test_no_model_of_the_plan_or_the_messages_is_forgotten():
    nested: set[Any] = set()
    pending: list[Any] = list(MODELS)
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if kind not in nested:
                nested.add(kind)
                pending.extend(field.annotation for field in kind.model_fields.values())
        else:
            pending.extend(argument for argument in get_args(kind) if argument is not Ellipsis)
    assert nested == set(MODELS)


def test_the_steps_of_an_upload_are_documented():
    described = prose("docs/protocol.md")
    for model in (uploads.Begin, uploads.Begun, uploads.Put, uploads.Stored, uploads.Publish, uploads.PublishResult):
        for name in model.model_fields:
            assert f"`{name}`" in described, name


def test_the_words_of_the_proof_are_documented():
    described = prose("docs/protocol.md")
    source = (ROOT / "actors/remote/proof.py").read_text(encoding="utf-8")
    labels = re.findall(r'b"(syndb [^"]+)"', source)
    assert len(labels) == 5
    assert all(f"`{label}`" in described for label in labels)
    assert f"`{generate_secret()[:7]}`" in described


def test_every_operator_and_function_of_a_plan_is_documented():
    described = set(code_spans(prose("docs/protocol.md")))
    assert {member.value for member in (*Operator, *Function)} <= described


def test_every_word_of_syql_is_documented():
    described = {word.lower().split("(")[0] for word in code_spans(prose("docs/syql.md"))}
    assert {*AGGREGATES, *SCALARS} <= described
    assert set(METADATA) <= described
    assert set(TABLES) <= set(code_spans(prose("docs/users.md")))


def test_quoted_messages_are_ours():
    folders = ("actors", "syndb_common", "syndb_hub", "syndb_node", "syndb_cli")
    source = "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in (ROOT / folder).rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # strings written in two lines
    table = text("docs/operators.md").split("## When something fails")[1]
    symptoms = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")]
    quoted = [span for symptom in symptoms for span in code_spans(symptom)]
    assert len(quoted) > 20
    for message in quoted:
        for fragment in message.split("…"):
            assert fragment.strip(" `") in source, message


def test_every_metric_is_documented_and_every_documented_one_exists() -> None:
    watching = text("docs/operators.md").split("## Watching")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(syndb_[a-z_]+)`", watching))
    network = {"refused_streams": 1}
    hub = hub_readings(Directory(), network, {"pending": 0})
    node = node_readings(joined=True, running=0, engine_ok=True, versions=(), network=network)
    readings = {name for name, *_ in (*hub, *node)}
    counted = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in metrics.REGISTRY.collect()
        if family.name.startswith("syndb_")
    }
    assert documented == readings | counted
