import os
import stat

import pytest
from libp2p.peer.id import ID

from actors.remote.identity import Identity
from syndb_common.errors import ConfigError


def test_the_same_file_gives_the_same_peer_id(tmp_path):
    path = tmp_path / "keys" / "node.key"
    assert Identity.load_or_create(path).peer_id == Identity.load_or_create(path).peer_id


def test_the_peer_id_is_the_one_libp2p_computes():
    identity = Identity.generate()
    assert str(ID.from_pubkey(identity.key_pair.public_key)) == identity.peer_id


def test_the_key_file_is_for_its_owner_only(tmp_path):
    previous = os.umask(0)
    try:
        Identity.load_or_create(tmp_path / "node.key")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["node.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_key_file_open_to_others_is_refused_with_the_remedy(tmp_path, mode):
    path = tmp_path / "node.key"
    Identity.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="others") as refused:
        Identity.load_or_create(path)
    assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b"not a key", b"\xff" * 10_000])
def test_a_damaged_key_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "node.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not an Ed25519 private key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        Identity.load_or_create(tmp_path / "file" / "node.key")


def test_the_secret_is_not_in_the_repr(tmp_path):
    identity = Identity.load_or_create(tmp_path / "node.key")
    assert repr(identity) == f"Identity({identity.peer_id})"
    assert not hasattr(identity, "__dict__")
