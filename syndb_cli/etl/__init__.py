"""Importers of published connectomes: ``syndb etl <dataset> {download,validate,import}``.

A :class:`~syndb_cli.etl.source.Source` knows the files of one publication, what may be wrong with them and how they
become rows of our tables. Downloading, checking and publishing are the same for all. Every id follows from the name
of the data set and of the row in its source, so that an import can be repeated.
"""

from syndb_cli.etl.commands import app

__all__ = ["app"]
