"""The page that documents every setting, made from the settings models.

``python -m tests.docs.settings_page > docs/settings.md`` writes it anew; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from syndb_common.node_settings import NodeSettings
from syndb_common.settings import environment_variables
from syndb_hub.settings import HubSettings

HEAD = """\
# Settings

Each daemon reads one TOML file, named by `--config` (or `SYNDB_HUB_CONFIG`, `SYNDB_NODE_CONFIG`). `syndb-hub init` and
`syndb federation init` write it with every key explained. A variable in the environment overrides its key; lists are
written there with commas. An unknown key is an error, so that a slip of the pen cannot pass unseen. `syndb-hub
check-config` and `syndb-node check-config` say what is wrong with a file. Sizes are bytes, times seconds unless the
name says otherwise. This page is made from the code.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_file("hub.toml", HubSettings), "", *_file("node.toml", NodeSettings)]) + "\n"


def keys(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a settings model, dotted; ``*`` stands for a name the owner chooses."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from keys(annotation, f"{above}{name}.")
        elif get_origin(annotation) is dict:
            yield from keys(get_args(annotation)[1], f"{above}{name}.*.")
        else:
            yield f"{above}{name}", field


def _file(name: str, model: type[BaseModel]) -> Iterator[str]:
    variables = {key: variable for variable, key in environment_variables(model).items()}
    yield f"## {name}\n"
    yield "| key | default | variable | meaning |"
    yield "|---|---|---|---|"
    for key, field in keys(model):
        variable = f"`{variables[key]}`" if key in variables else ""
        yield f"| `{key}` | {_default(field)} | {variable} | {_meaning(key, field)} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Path):
        value = str(value)
    return f"`{json.dumps(value)}`"


def _meaning(key: str, field: FieldInfo) -> str:
    if key == "policy.datasets.*.share":
        return 'for one data set, by its name: `[policy.datasets."my-data"]`'
    return field.description or ""


if __name__ == "__main__":
    print(page(), end="")
