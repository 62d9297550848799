"""The invitation line: what goes in comes out, and what is damaged says so without giving the secret away."""

from __future__ import annotations

import base64
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syndb_common.errors import ConfigError
from syndb_common.invitation import MAX_CHARACTERS, PREFIX, Invitation, parse

HUB = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
SECRET = "syndb1_" + "Ab-_" * 10 + "Abc"
BASE64 = string.ascii_letters + string.digits + "-_"
BASE58 = "".join(sorted(set(string.ascii_letters + string.digits) - set("0OIl")))

invitations = st.builds(
    Invitation,
    hub=st.text(BASE58, min_size=44, max_size=44).map(lambda text: f"12D3KooW{text}"),
    addresses=st.lists(
        st.from_regex(r"/(ip4|dns4)/[a-z0-9.]{1,40}/udp/[0-9]{1,5}/quic-v1", fullmatch=True), max_size=16
    ).map(tuple),
    secret=st.text(BASE64, min_size=43, max_size=43).map(lambda text: f"syndb1_{text}"),
    url=st.sampled_from(["", "https://hub.example/api", "http://192.0.2.1:8080"]),
    name=st.from_regex(r"([a-z0-9][a-z0-9-]{0,62})?", fullmatch=True),
)


def line(**content: object) -> str:
    text = json.dumps({"hub": HUB, "secret": SECRET, **content})
    return PREFIX + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@given(invitations)
def test_an_invitation_is_one_line_and_is_read_as_it_was_written(invitation: Invitation) -> None:
    rendered = invitation.render()
    assert len(rendered.split()) == 1
    assert len(rendered) <= MAX_CHARACTERS
    assert parse(rendered) == invitation


@given(invitations, st.data())
def test_an_invitation_that_was_broken_over_lines_is_read_too(invitation: Invitation, data: st.DataObject) -> None:
    rendered = invitation.render()
    at = data.draw(st.integers(0, len(rendered)))
    assert parse(f"  {rendered[:at]}\r\n {rendered[at:]}\n") == invitation


@given(st.text(max_size=200))
def test_any_other_text_is_a_configuration_error(text: str) -> None:
    for tried in (text, PREFIX + text):
        with pytest.raises(ConfigError) as refused:
            parse(tried)
        assert refused.value.hint


def test_what_a_newer_hub_adds_is_ignored() -> None:
    assert parse(line(colour="blue")) == Invitation(hub=HUB, secret=SECRET)


def test_an_invitation_of_a_newer_version_says_what_to_update() -> None:
    with pytest.raises(ConfigError, match="version") as refused:
        parse("syndb-invite-2:abc")
    assert "Update syndb" in refused.value.hint


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"hub": "12D3KooWnone"}, "hub"),
        ({"secret": SECRET[:-1]}, "secret"),
        ({"secret": "chosen-by-a-person" * 3}, "secret"),
        ({"addresses": ["/ip4/1.2.3.4"] * 17}, "addresses"),
        ({"addresses": ["example.org:4001"]}, "addresses"),
        ({"url": "ftp://hub"}, "url"),
        ({"name": "Worm Lab"}, "name"),
    ],
)
def test_a_field_that_cannot_be_is_named_and_not_repeated(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as refused:
        parse(line(**wrong))
    assert SECRET[7:20] not in str(refused.value)


def test_a_line_that_lost_its_end_is_damaged_and_its_secret_not_shown() -> None:
    whole = line()
    with pytest.raises(ConfigError, match="damaged") as refused:
        parse(whole[:-9])
    assert SECRET[7:20] not in str(refused.value) + refused.value.hint


def test_a_line_without_end_is_refused_unread() -> None:
    with pytest.raises(ConfigError, match="at most"):
        parse(PREFIX + "A" * MAX_CHARACTERS)


def test_the_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(parse(line()))
