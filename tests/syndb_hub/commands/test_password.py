"""``syndb-hub password``: rotated, then retired when nobody needs the old one."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from typer.testing import Result

from actors.directory import NOWHERE, ClusterRecord, Standing
from actors.remote.proof import derive_key, key_id
from syndb_common.settings import load
from syndb_hub.keys import Keys
from syndb_hub.passwords import keyring
from syndb_hub.settings import HubSettings
from syndb_hub.store.clusters import Clusters
from syndb_hub.store.once import once

Command = Callable[..., Result]


def passwords(config: Path) -> tuple[str, str]:
    federation = load(HubSettings, config, {}).federation
    return federation.password.get_secret_value(), federation.previous_password.get_secret_value()


def joined(settings: HubSettings, name: str, password: str, standing: Standing = Standing.ACTIVE) -> None:
    """Enter a node that joined with this password."""
    key = trio.run(derive_key, password, Keys(settings.data_dir).load_current().peer_id)
    record = ClusterRecord(
        id=uuid4(),
        name=name,
        peer_id=f"12D3{name}",
        endpoints=NOWHERE,
        registered_at=datetime.now(UTC),
        standing=standing,
        key_id=key_id(key),
    )
    once(settings.data_dir / "hub.sqlite", lambda store: Clusters(store).save(record))


def test_rotating_makes_a_new_password_and_keeps_the_former_and_everything_else(
    syndb_hub: Command, config: Path
) -> None:
    config.write_text(config.read_text().replace("# require_approval = false", "require_approval = true"))
    before, _ = passwords(config)
    done = syndb_hub("password", "rotate", "--config", str(config))
    new, previous = passwords(config)
    assert (done.exit_code, previous, new != before, len(new) >= 40) == (0, before, True, True)
    assert load(HubSettings, config, {}).federation.require_approval
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert "syndb-hub reload" in done.stderr
    assert new not in done.output


MINE = """\
# ours
data_dir = "{folder}"   # on the big disk

[http]
# password = "not this one"
port = 1234

[federation] # the important part
# Ask Ana before changing this.
  password = 'it''s "old" #1'  # handed out in May
require_approval = true
# the end
"""


def test_what_the_operator_wrote_besides_stays(syndb_hub: Command, config: Path, settings: HubSettings) -> None:
    before = MINE.format(folder=settings.data_dir).replace("it''s", "it is")
    config.write_text(before)
    config.chmod(0o640)
    old, _ = passwords(config)
    syndb_hub("password", "rotate", "--config", str(config))
    new, previous = passwords(config)
    assert (previous, stat.S_IMODE(config.stat().st_mode)) == (old, 0o640)
    syndb_hub("password", "rotate", "--config", str(config), "--force")
    assert passwords(config)[1] == new
    newest, _ = passwords(config)
    assert syndb_hub("password", "retire", "--config", str(config), "--force").exit_code == 0
    assert config.read_text() == before.replace("""'it is "old" #1'""", f'"{newest}"')


@pytest.mark.parametrize(
    "written",
    [
        'federation.password = "old"\ndata_dir = "{folder}"\n',
        'data_dir = "{folder}"\nfederation = {{password = "old"}}\n',
        'data_dir = "{folder}"\n[federation]\npassword = """old"""\n',
        'data_dir = "{folder}"\n["federation"]\n"password" = "old"\n',
        'data_dir = "{folder}"\n[federation]\nprevious_password = ""\npassword = "old"',
    ],
)
def test_a_password_is_rotated_however_the_file_is_written(
    syndb_hub: Command, config: Path, settings: HubSettings, written: str
) -> None:
    config.write_text(written.format(folder=settings.data_dir))
    assert syndb_hub("password", "rotate", "--config", str(config)).exit_code == 0
    new, previous = passwords(config)
    assert (previous, new != "old") == ("old", True)
    assert load(HubSettings, config, {}).data_dir == settings.data_dir


def test_a_second_rotation_would_lose_the_previous_password_and_needs_force(syndb_hub: Command, config: Path) -> None:
    rotate = ("password", "rotate", "--config", str(config))
    syndb_hub(*rotate)
    first, _ = passwords(config)
    assert syndb_hub(*rotate).exit_code == 6
    assert passwords(config)[0] == first
    assert syndb_hub(*rotate, "--force").exit_code == 0
    assert passwords(config)[1] == first


def test_retiring_names_the_active_nodes_that_still_need_the_old_one(
    syndb_hub: Command, config: Path, settings: HubSettings
) -> None:
    old, _ = passwords(config)
    syndb_hub("password", "rotate", "--config", str(config))
    joined(settings, "worm-lab", old)
    joined(settings, "fly-lab", passwords(config)[0])
    joined(settings, "gone-lab", old, Standing.INACTIVE)
    retire = ("password", "retire", "--config", str(config))
    refused = syndb_hub(*retire)
    assert (refused.exit_code, passwords(config)[1]) == (6, old)
    assert "worm-lab" in refused.stderr
    assert "fly-lab" not in refused.stderr
    assert "gone-lab" not in refused.stderr
    assert syndb_hub(*retire, "--force").exit_code == 0
    assert passwords(config)[1] == ""
    assert syndb_hub(*retire, "--force").exit_code == 5


def test_the_state_says_who_joined_with_what_and_never_a_password(
    syndb_hub: Command, config: Path, settings: HubSettings
) -> None:
    where = ("--config", str(config))
    old, _ = passwords(config)
    syndb_hub("password", "rotate", *where)
    joined(settings, "worm-lab", old)
    joined(settings, "fly-lab", passwords(config)[0])
    found = json.loads(syndb_hub("password", "show-state", *where, "--json").stdout)
    assert found == {"previous_accepted": True, "current": ["fly-lab"], "invited": [], "other": ["worm-lab"]}
    shown = syndb_hub("password", "show-state", *where)
    assert "fly-lab" in shown.stdout
    assert not any(password in shown.output for password in passwords(config))


def test_a_password_from_the_environment_cannot_be_rotated_in_the_file(
    syndb_hub: Command, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = config.read_text()
    monkeypatch.setenv("FEDERATION_PASSWORD", "from-outside")
    done = syndb_hub("password", "rotate", "--config", str(config))
    assert (done.exit_code, config.read_text()) == (2, before)
    assert "FEDERATION_PASSWORD" in done.stderr


async def test_the_keyring_has_the_keys_of_both_passwords(config: Path, settings: HubSettings) -> None:
    both = settings.federation.model_copy(update={"previous_password": settings.federation.password})
    alone, pair = await keyring(settings.federation, "12D3"), await keyring(both, "12D3")
    assert (alone.previous, pair.previous) == (None, pair.current)
    assert pair.current == await derive_key(settings.federation.password.get_secret_value(), "12D3")
