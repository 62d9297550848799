"""syndb_hub"""
