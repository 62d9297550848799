from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.remote.proof import Transcript, derive_key, generate_nonce, generate_secret, hub_proof, node_proof, verify
from syndb_common.errors import ConfigError

HUB = "12D3KooWGRUMLdbnPWnCGvhPSoNhq4pKoWX5SGfGnTQWRTBdE3mc"

keys = st.binary(min_size=32, max_size=32)
transcripts = st.builds(
    Transcript,
    node_nonce=st.binary(min_size=32, max_size=32),
    hub_nonce=st.binary(min_size=32, max_size=32),
    node_peer_id=st.text(max_size=60),
    hub_peer_id=st.text(max_size=60),
    cluster_name=st.text(max_size=60),
)


@given(keys, transcripts)
def test_both_sides_compute_the_same_proofs(key, transcript):
    assert verify(node_proof(key, transcript), node_proof(key, replace(transcript)))
    assert verify(hub_proof(key, transcript), hub_proof(key, replace(transcript)))


@given(keys, transcripts, st.data())
def test_any_change_of_any_input_changes_the_proofs(key, transcript, data):
    field = data.draw(st.sampled_from([field.name for field in fields(Transcript)]))
    before = getattr(transcript, field)
    other = st.binary(max_size=64) if isinstance(before, bytes) else st.text(max_size=60)
    changed = replace(transcript, **{field: data.draw(other.filter(lambda value: value != before))})
    assert not verify(node_proof(key, changed), node_proof(key, transcript))
    assert not verify(hub_proof(key, changed), hub_proof(key, transcript))


@given(transcripts, st.text(min_size=1, max_size=20))
def test_a_character_moved_from_one_field_to_the_next_changes_the_proof(transcript, moved):
    one = replace(transcript, node_peer_id=transcript.node_peer_id + moved)
    other = replace(transcript, hub_peer_id=moved + transcript.hub_peer_id)
    assert node_proof(b"k" * 32, one) != node_proof(b"k" * 32, other)


@given(keys, keys, transcripts)
def test_another_key_gives_another_proof(key, other, transcript):
    assert (key == other) == verify(node_proof(key, transcript), node_proof(other, transcript))


@given(keys, transcripts)
def test_a_proof_sent_back_proves_nothing(key, transcript):
    mirrored = replace(
        transcript,
        node_nonce=transcript.hub_nonce,
        hub_nonce=transcript.node_nonce,
        node_peer_id=transcript.hub_peer_id,
        hub_peer_id=transcript.node_peer_id,
    )
    assert not verify(node_proof(key, transcript), hub_proof(key, transcript))
    assert not verify(node_proof(key, transcript), hub_proof(key, mirrored))


async def test_a_generated_secret_is_used_as_it_is():
    secret = generate_secret()
    assert secret != generate_secret()
    assert len(await derive_key(secret, HUB)) == 32
    assert await derive_key(secret, HUB) == await derive_key(secret, "another hub")


async def test_a_chosen_password_is_stretched_for_one_hub():
    assert await derive_key("correct horse", HUB) == await derive_key("correct horse", HUB)
    assert await derive_key("correct horse", HUB) != await derive_key("correct horse", "another hub")
    assert await derive_key("correct horse", HUB) != await derive_key("correct hors", HUB)


async def test_something_that_only_starts_like_a_secret_is_stretched():
    assert await derive_key("syndb1_short", HUB) != await derive_key("syndb1_short", "another hub")


@pytest.mark.parametrize("around", [" {}", "{}\n", "\t{}\r\n"])
async def test_blanks_around_a_password_do_not_count(around):
    secret = generate_secret()
    assert await derive_key(around.format(secret), HUB) == await derive_key(secret, HUB)
    assert await derive_key(around.format("pass word"), HUB) == await derive_key("pass word", HUB)


@pytest.mark.parametrize("password", ["", " \n", "x" * 1025])
async def test_an_unusable_password_is_refused_without_being_shown(password):
    with pytest.raises(ConfigError) as refused:
        await derive_key(password, HUB)
    assert "xxx" not in str(refused.value)


def test_nonces_are_fresh():
    assert len(generate_nonce()) == 32
    assert generate_nonce() != generate_nonce()
