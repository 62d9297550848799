"""One hierarchy of errors: codes are stable, and what crosses a wire comes back as what it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common import errors
from syndb_common.errors import ErrorBody, SynDBError

KINDS = sorted(
    (kind for kind in errors._by_code().values() if kind.__module__ == errors.__name__), key=lambda kind: kind.code
)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_comes_back_from_the_wire_as_it_was(kind: type[SynDBError]) -> None:
    sent = kind("what happened", hint="what to do", line=3)
    body = ErrorBody.model_validate_json(sent.to_body().model_dump_json())
    received = SynDBError.from_body(body)
    assert type(received) is kind
    assert (received.message, received.hint, received.details) == ("what happened", "what to do", {"line": 3})


def test_codes_are_unique() -> None:
    source = Path(errors.__file__).read_text()
    assert len(KINDS) == len(re.findall(r"^class \w+\((?!BaseModel)", source, re.MULTILINE))


def test_the_tree_in_the_documentation_is_the_tree() -> None:
    lines = re.findall(r"(\w+) +([a-z_]+) +(\d{3}) +exit (\d+)", errors.__doc__ or "")
    assert {(name, code, int(status), int(leave)) for name, code, status, leave in lines} == {
        (kind.__name__, kind.code, kind.http_status, kind.exit_code) for kind in KINDS
    }


def test_every_error_says_what_to_make_of_it() -> None:
    assert all(kind.__doc__ for kind in KINDS)


def test_an_error_of_a_newer_daemon_is_still_an_error() -> None:
    received = SynDBError.from_body(ErrorBody(error="new", code="not_known_yet", hint="update"))
    assert type(received) is SynDBError
    assert (received.message, received.hint) == ("new", "update")


@given(st.text(max_size=20_000), st.text(max_size=10_000))
def test_what_goes_over_a_wire_is_bounded(message: str, hint: str) -> None:
    body = SynDBError(message, hint=hint).to_body()
    assert message.startswith(body.error)
    assert len(body.error) <= 8192
    assert len(body.hint) <= 4096
