"""syndb_hub/federation"""
