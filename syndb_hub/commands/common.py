"""What all commands of the hub share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from syndb_hub.settings import HubSettings

Config = Annotated[Path, typer.Option("--config", help="Configuration file.", envvar="SYNDB_HUB_CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def store_path(settings: HubSettings) -> Path:
    """The metadata store's file, its folder made when there is none."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return settings.data_dir / "hub.sqlite"


def print_json(value: Any) -> None:
    """One JSON document on standard output; times in ISO 8601."""
    typer.echo(json.dumps(value, indent=2, default=str))


def note(text: str) -> None:
    """Tell the person, and not the program that reads standard output."""
    typer.echo(text, err=True)
