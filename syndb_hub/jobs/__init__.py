"""syndb_hub/jobs"""
