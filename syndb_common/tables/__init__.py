"""The data model: eleven tables in one hierarchy, their columns with units, and the numbered migrations.

``model`` describes the tables, ``migrations`` creates them in ClickHouse, ``identity`` makes the ids of
things. Docs, command line and ``GET /v1/schema`` print what stands in ``model``.
"""

from syndb_common.tables.model import COMMON_COLUMNS, METADATA, TABLES, Column, Kind, Table

__all__ = ["COMMON_COLUMNS", "METADATA", "TABLES", "Column", "Kind", "Table"]
