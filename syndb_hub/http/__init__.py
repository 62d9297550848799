"""syndb_hub/http"""
