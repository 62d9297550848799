"""syndb_cli/etl"""
