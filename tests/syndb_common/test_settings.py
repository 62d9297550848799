"""Settings: one file per daemon, every documented variable overrides its key, and no secret is ever repeated."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from syndb_common.engine.interface import Limits
from syndb_common.errors import ConfigError
from syndb_common.node_settings import LimitSettings, NodeSettings, Share
from syndb_common.settings import SCHEMA_VERSION, environment_variables, load, render, validate, write_private
from syndb_hub.settings import HubSettings

CONFIGS = Path(__file__).parents[2] / "configs"
SECRET = "the-secret-of-this-test"
PEER_ID = "12D3KooWQjpHjGsyfLAaLHdBnVRCnDVyqVMEBBNbEWTjqkMYYqVx"
REQUIRED: dict[type[Any], dict[str, Any]] = {
    HubSettings: {"data_dir": "/data", "federation": {"password": SECRET}},
    NodeSettings: {
        "data_dir": "/data",
        "cluster": {"name": "worm-lab"},
        "federation": {"password": SECRET, "hub_peer_id": PEER_ID},
    },
}
EXAMPLES: dict[type[Any], tuple[str, dict[str, Any]]] = {
    HubSettings: (
        "hub.toml",
        {"data_dir": "/var/lib/syndb-hub", "federation": {"password": "replace-me: syndb-hub init makes a strong one"}},
    ),
    NodeSettings: (
        "node.toml",
        {
            "data_dir": "/var/lib/syndb-node",
            "cluster": {"name": "my-institute", "institution": "My Institute"},
            "federation": {
                "password": "replace-me: the hub's operator has it",
                "hub_peer_id": PEER_ID,
                "hub_multiaddrs": ["/dns4/hub.example.org/udp/4001/quic-v1", "/dns4/hub.example.org/tcp/4001"],
            },
            "flight": {"advertise": "node.example.org:50052"},
            "policy": {"datasets": {"cook-2019-male": {"share": "rows"}}},
        },
    ),
}
VARIABLES = [
    (model, variable, key) for model in REQUIRED for variable, key in sorted(environment_variables(model).items())
]
VALUES = {  # what to set a variable to, and what the setting is then, where text would not do
    "FEDERATION_ENABLE_MDNS": ("false", False),
    "FEDERATION_LISTEN_ADDR": ("/ip4/1.2.3.4/tcp/1, /ip4/5.6.7.8/tcp/1,", ("/ip4/1.2.3.4/tcp/1", "/ip4/5.6.7.8/tcp/1")),
    "FEDERATION_HUB_MULTIADDRS": (" /ip4/1.2.3.4/tcp/1 ", ("/ip4/1.2.3.4/tcp/1",)),
    "FEDERATION_CLUSTER_NAME": ("other-lab", "other-lab"),
    "FEDERATION_NODE_FLIGHT_ADVERTISE": ("example.org:1234", "example.org:1234"),
    "SYNDB_DATA_DIR": ("/elsewhere", Path("/elsewhere")),
    "SYNDB_HUB_URL": ("https://hub.example", "https://hub.example"),
}  # fmt: skip


def write(folder: Path, model: type[Any], **changes: Any) -> Path:
    """A file with what the model requires; ``changes`` replace whole sections or keys."""
    path = folder / "daemon.toml"
    path.write_text(render(model, {**REQUIRED[model], **changes}))
    return path


def field_of(model: type[BaseModel], key: str) -> Any:
    *sections, name = key.split(".")
    for section in sections:
        model = model.model_fields[section].annotation  # type: ignore[assignment]
    return model.model_fields[name]


def value_of(settings: Any, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings.get_secret_value() if isinstance(settings, SecretStr) else settings


@pytest.mark.parametrize(("model", "variable", "key"), VARIABLES)
def test_every_documented_variable_overrides_its_key(tmp_path: Path, model: type[Any], variable: str, key: str) -> None:
    path = write(tmp_path, model)
    before = value_of(load(model, path, {}), key)
    annotation = field_of(model, key).annotation
    text, expected = VALUES.get(variable, ("7", annotation(7) if annotation in (int, float) else "7"))
    after = value_of(load(model, path, {variable: text}), key)
    assert after == expected != before


def test_the_variables_of_the_documentation_are_honoured() -> None:
    assert set(environment_variables(HubSettings)) == {
        "FEDERATION_DELEGATION_TIMEOUT_SECS",
        "FEDERATION_ENABLE_MDNS",
        "FEDERATION_LISTEN_ADDR",
        "FEDERATION_PASSWORD",
        "FLIGHT_PORT",
        "JOB_MAX_RESULT_BYTES",
        "JOB_QUEUE_MAX_WORKERS",
        "JOB_RESULT_TTL_HOURS",
        "RATE_LIMIT_BURST",
        "RATE_LIMIT_PER_SECOND",
        "REQUEST_TIMEOUT_SECS",
        "SYNDB_DATA_DIR",
        "SYNDB_HTTP_PORT",
    }
    assert set(environment_variables(NodeSettings)) == {
        "FEDERATION_CLUSTER_DESCRIPTION",
        "FEDERATION_CLUSTER_INSTITUTION",
        "FEDERATION_CLUSTER_NAME",
        "FEDERATION_CLUSTER_NATIVE_PORT",
        "FEDERATION_ENABLE_MDNS",
        "FEDERATION_HUB_MULTIADDRS",
        "FEDERATION_LISTEN_ADDR",
        "FEDERATION_NODE_FLIGHT_ADVERTISE",
        "FEDERATION_NODE_FLIGHT_PORT",
        "SYNDB_DATA_DIR",
        "SYNDB_FEDERATION_PASSWORD",
        "SYNDB_HUB_URL",
    }


@pytest.mark.parametrize("model", REQUIRED)
def test_a_variable_can_stand_for_a_section_the_file_does_not_have(tmp_path: Path, model: type[Any]) -> None:
    path = tmp_path / "bare.toml"
    path.write_text("")
    with pytest.raises(ConfigError, match="data_dir"):
        load(model, path, {})
    if model is HubSettings:
        settings = load(HubSettings, path, {"SYNDB_DATA_DIR": "/data", "FEDERATION_PASSWORD": " secret\n"})
        assert settings.federation.password.get_secret_value() == "secret"


@pytest.mark.parametrize("model", REQUIRED)
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("datadir = '/x'", "datadir"),
        ("log_level = 'loud'", "log_level"),
        ("log_level = 3", "log_level"),
        ("[federation]\npasword = 'x'", "federation.pasword"),
        ("[federation]\nenable_mdns = 'perhaps'", "federation.enable_mdns"),
        ("federation = 3", "federation"),
        ("[federation]\npassword = ''", "federation.password"),
        ("[federation]\nlisten = 'not a list'", "federation.listen"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tmp_path: Path, model: type[Any], text: str, named: str) -> None:
    path = tmp_path / "daemon.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(model, path, {})
    assert str(path) in error.value.message
    assert f"{named}:" in error.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a = ", "TOML"), (b"\xff\xfe", "TOML"), (b"[a]\n[a]\n", "TOML"), (None, "init")],
)
def test_a_file_that_cannot_be_read_is_said_with_what_to_do(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "daemon.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load(HubSettings, path, {})
    assert str(path) in error.value.message
    assert says in error.value.hint


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", 1.0, True])
def test_a_file_of_another_layout_is_refused(tmp_path: Path, version: Any) -> None:
    with pytest.raises(ConfigError, match="schema_version"):
        load(HubSettings, write(tmp_path, HubSettings, schema_version=version), {})


def test_a_wrong_variable_is_named_beside_the_key_it_overrides(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"http.port \(from SYNDB_HTTP_PORT\): "):
        load(HubSettings, write(tmp_path, HubSettings), {"SYNDB_HTTP_PORT": "many"})


@pytest.mark.parametrize("model", REQUIRED)
def test_secrets_are_neither_shown_nor_repeated_in_errors(tmp_path: Path, model: type[Any]) -> None:
    settings = load(model, write(tmp_path, model), {})
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()
    federation = {**REQUIRED[model]["federation"], "password": [SECRET]}
    with pytest.raises(ConfigError) as error:
        load(model, write(tmp_path, model, federation=federation, log_level=SECRET), {})
    assert SECRET not in str(error.value) + error.value.hint + repr(error.value.__cause__)


@pytest.mark.parametrize(
    "peer_id", ["", "hub", PEER_ID[:-1], PEER_ID + "x", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"]
)
def test_a_hub_that_cannot_be_one_of_ours_cannot_be_pinned(tmp_path: Path, peer_id: str) -> None:
    federation = {"password": SECRET, "hub_peer_id": peer_id}
    with pytest.raises(ConfigError, match="hub_peer_id"):
        load(NodeSettings, write(tmp_path, NodeSettings, federation=federation), {})


@pytest.mark.parametrize(("advertise", "valid"), [
    ("", True), ("example.org", True), ("example.org:1", True), ("[::1]:50052", True), ("[::1]", True),
    ("::1", False), ("http://example.org", False), ("example.org:99999", False), ("a b", False), ("b:", False),
])  # fmt: skip
def test_an_advertised_address_is_one_the_hub_can_read(tmp_path: Path, advertise: str, valid: bool) -> None:
    path = write(tmp_path, NodeSettings, flight={"advertise": advertise})
    if valid:
        assert load(NodeSettings, path, {}).flight.advertise == advertise
    else:
        with pytest.raises(ConfigError, match=r"flight\.advertise"):
            load(NodeSettings, path, {})


def test_the_hubs_addresses_carry_its_peer_id() -> None:
    given = ["/ip4/1.2.3.4/tcp/1", f"/ip4/1.2.3.4/tcp/2/p2p/{PEER_ID}"]
    values = {**REQUIRED[NodeSettings]}
    values["federation"] = {**values["federation"], "hub_multiaddrs": given}
    found = validate(NodeSettings, values, "test").federation.hub_addresses
    assert found == [f"/ip4/1.2.3.4/tcp/1/p2p/{PEER_ID}", f"/ip4/1.2.3.4/tcp/2/p2p/{PEER_ID}"]


def test_an_address_that_names_another_peer_than_the_hub_is_said_to_be_wrong_unless_it_is_the_next_hubs() -> None:
    other, relay = PEER_ID[:-1] + "1", PEER_ID[:-1] + "2"
    own = ["/ip4/1.2.3.4/tcp/1", f"/ip4/1.2.3.4/tcp/2/p2p/{PEER_ID}", f"/ip4/1.2.3.4/tcp/3/p2p/{relay}/p2p-circuit"]
    foreign = f"/ip4/1.2.3.4/tcp/4/p2p/{other}"
    values = {**REQUIRED[NodeSettings]}
    values["federation"] = {**values["federation"], "hub_multiaddrs": own}
    validate(NodeSettings, values, "test").federation.check_hub_addresses([PEER_ID])
    values["federation"]["hub_multiaddrs"] = [*own, foreign]
    federation = validate(NodeSettings, values, "test").federation
    with pytest.raises(ConfigError, match=f"{foreign} names another peer than the hub this node obeys, {PEER_ID}"):
        federation.check_hub_addresses([PEER_ID])
    federation.check_hub_addresses([PEER_ID, other])
    federation.check_hub_addresses([other])


@pytest.mark.parametrize(("asked", "granted"), [(5.0, 5.0), (500.0, 30.0)])
def test_a_query_gets_the_owners_limits_and_no_more_time_than_its_asker_waits(asked: float, granted: float) -> None:
    limits = LimitSettings(memory_bytes=1, result_rows=2, result_bytes=3)
    assert limits.for_query(asked) == Limits(granted, 1, 2, 3)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(
    institution=TEXTS,
    password=TEXTS.filter(bool),
    addresses=st.lists(TEXTS, max_size=4),
    port=st.integers(0, 65535),
    seconds=st.floats(1e-300, 1e300),
    mdns=st.booleans(),
    rules=st.dictionaries(TEXTS, st.sampled_from(list(Share)), max_size=3),
)
def test_what_is_rendered_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    institution: str,
    password: str,
    addresses: list[str],
    port: int,
    seconds: float,
    mdns: bool,
    rules: dict[str, Share],
) -> None:
    values = {
        "data_dir": "/data",
        "cluster": {"name": "worm-lab", "institution": institution},
        "federation": {
            "password": password,
            "hub_peer_id": PEER_ID,
            "hub_multiaddrs": addresses,
            "enable_mdns": mdns,
        },
        "flight": {"port": port},
        "limits": {"seconds": seconds},
        "policy": {"datasets": {name: {"share": share.value} for name, share in rules.items()}},
    }
    path = tmp_path_factory.mktemp("rendered") / "node.toml"
    path.write_text(render(NodeSettings, values), encoding="utf-8")
    assert load(NodeSettings, path, {}) == NodeSettings.model_validate(values)


@pytest.mark.parametrize("model", EXAMPLES)
def test_the_example_files_are_what_the_models_say(model: type[Any]) -> None:
    name, values = EXAMPLES[model]
    text = (CONFIGS / name).read_text()
    assert text == render(model, values)
    load(model, CONFIGS / name, {})


@pytest.mark.parametrize("model", EXAMPLES)
def test_the_example_files_name_and_explain_every_key_and_variable(model: type[Any]) -> None:
    lines = (CONFIGS / EXAMPLES[model][0]).read_text().splitlines()
    for name, field in _keys(model):
        places = [index for index, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} = ")]
        assert places, name
        assert field.description, name
        assert any(field.description in lines[index - 1] for index in places), name
    for variable in environment_variables(model):
        assert any(f"[{variable}]" in line for line in lines), variable


def _keys(model: type[BaseModel]) -> list[tuple[str, Any]]:
    found = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found.extend(_keys(field.annotation))
        elif get_origin(field.annotation) is not dict:
            found.append((name, field))
    return found


@pytest.mark.parametrize("model", REQUIRED)
def test_defaults_are_written_as_comments_that_can_be_uncommented(tmp_path: Path, model: type[Any]) -> None:
    rendered = render(model, REQUIRED[model])
    path = tmp_path / "uncommented.toml"
    path.write_text(re.sub(r"^# ([a-z_]+ = )", r"\1", rendered, flags=re.MULTILINE))
    assert len(path.read_text()) < len(rendered)
    assert load(model, path, {}) == load(model, write(tmp_path, model), {})


def test_a_private_file_is_the_owners_alone_from_its_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "new" / "daemon.toml"
    before = os.umask(0)
    try:
        write_private(path, "first")
        path.chmod(0o644)
        write_private(path, "second")
    finally:
        os.umask(before)
    assert path.read_text() == "second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["daemon.toml"]


@pytest.mark.parametrize("mode", [0o640, 0o400, 0o600])
def test_a_file_of_the_operator_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "daemon.toml"
    path.write_text("first")
    path.chmod(mode)
    write_private(path, "second", keep_mode=True)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("second", mode)


def test_what_root_writes_belongs_to_the_owner_of_the_file_before_or_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    ours = (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    write_private(tmp_path / "key", "first")
    write_private(tmp_path / "key", "second")
    assert given == [ours, ours]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_service_without_privileges_can_read_what_root_wrote(tmp_path: Path) -> None:
    os.chown(tmp_path, 1234, 1235)
    write_private(tmp_path / "key", "new")
    config = tmp_path / "daemon.toml"
    config.write_text("first")
    os.chown(config, 1236, 1237)
    write_private(config, "second", keep_mode=True)
    owners = [(each.stat().st_uid, each.stat().st_gid) for each in (tmp_path / "key", config)]
    assert owners == [(1234, 1235), (1236, 1237)]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_private_file_that_must_not_be_replaced_is_that_of_whoever_was_first(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"first", replace=False)
    write_private(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_private_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "key", []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write_private(path, "content")
    assert synced == [(False, False), (True, True)]


def test_a_file_that_cannot_be_written_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_private(tmp_path / "file" / "daemon.toml", "text")
    (tmp_path / "daemon.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        write_private(tmp_path / "daemon.toml", "text")
    with pytest.raises(ConfigError, match="no text"):
        write_private(tmp_path / "other.toml", "\udcff")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["daemon.toml", "file"]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("listen", "/ip4/0.0.0.0/udp/4001/quic-v1", "0.0.0.0:4001"),
        ("listen", "/ip6/::/tcp/0", "/ip4/::/tcp/4001"),
        ("listen", "/ip4/192.0.2.1/tcp/65535", "/ip4/192.0.2.1/tcp/65536"),
        ("listen", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1"),
        ("listen", "/ip4/127.0.0.1/tcp/1", "/dns4/hub.example.org/tcp/1"),
        ("approved_networks", "192.0.2.0/24", "192.0.2.1/24"),
        ("approved_networks", "2001:db8::1", "hub.example.org"),
        ("relays", f"/dns4/relay.example.org/tcp/4001/p2p/{PEER_ID}", "/dns4/other.example.org/tcp/1"),
    ],
)
def test_addresses_are_checked_before_anything_starts(key: str, good: str, bad: str) -> None:
    def load_with(address: str) -> HubSettings:
        values = {"data_dir": "/x", "federation": {"password": SECRET, key: [address]}}
        return validate(HubSettings, values, "hub.toml")

    assert getattr(load_with(good).federation, key) == (good,)
    with pytest.raises(ConfigError, match=rf"federation.{key}.0: .*one looks like") as caught:
        load_with(bad)
    assert bad not in caught.value.message
