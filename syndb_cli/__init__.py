"""syndb_cli"""
