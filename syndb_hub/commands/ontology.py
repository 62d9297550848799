"""``syndb-hub ontology``: the controlled vocabularies that all nodes of the federation have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from syndb_common.daemon import report_errors
from syndb_common.settings import load
from syndb_hub.commands.common import AsJson, Config, note, print_json, store_path
from syndb_hub.settings import HubSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syndb_common.messages import OntologyTerm
    from syndb_hub.store.database import Store

app = typer.Typer(no_args_is_help=True, help="The terms of the federation: brain regions, species, ...")


@app.command("import")
def import_table(
    config: Config,
    file: Annotated[Path, typer.Argument(help="CSV with the columns name, vocabulary, parent_name, description, ...")],
    as_json: AsJson = False,
) -> None:
    """Put the terms of a table in place of all terms before; a running hub sends them to its nodes by itself."""
    with report_errors() as outcome:
        from syndb_hub.ontology.table import read_file
        from syndb_hub.store.once import once
        from syndb_hub.store.ontology import StoredTerms

        path = store_path(load(HubSettings, config))
        terms = read_file(file)
        revision = once(path, lambda store: StoredTerms(store).replace(terms))
        if as_json:
            print_json({"revision": revision, "vocabularies": _vocabularies(terms)})
        else:
            typer.echo(f"{len(terms)} terms are revision {revision}")
    raise typer.Exit(outcome.code)


@app.command()
def show(
    config: Config,
    vocabulary: Annotated[str, typer.Option(help="Show the terms of this one.")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the vocabularies, or the terms of one."""
    with report_errors() as outcome:
        from syndb_common.errors import NotFound
        from syndb_hub.store.once import once

        revision, terms = once(store_path(load(HubSettings, config)), _read)
        found = [term for term in terms if term.vocabulary == vocabulary]
        if vocabulary and not found:
            raise NotFound(f"there is no vocabulary {vocabulary}", hint="See: syndb-hub ontology show.")
        if as_json:
            listed = {"terms": [term.model_dump() for term in found]} if vocabulary else {}
            print_json({"revision": revision, "vocabularies": _vocabularies(terms), **listed})
        elif vocabulary:
            for term in found:
                instead = f"  (use {term.deprecated_by})" if term.deprecated_by else ""
                typer.echo(f"{term.id}  {term.label}{instead}")
        elif not terms:
            note("there are no terms yet: syndb-hub ontology import FILE.csv")
        else:
            typer.echo(f"revision {revision}")
            for name, count in _vocabularies(terms).items():
                typer.echo(f"{name}  {count} terms")
    raise typer.Exit(outcome.code)


def _vocabularies(terms: Sequence[OntologyTerm]) -> dict[str, int]:
    """How many terms each has."""
    return dict(sorted(Counter(term.vocabulary for term in terms).items()))


async def _read(store: Store) -> tuple[int, Sequence[OntologyTerm]]:
    from syndb_hub.store.ontology import StoredTerms

    return await StoredTerms(store).read()
