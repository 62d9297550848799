"""syndb_common/flight"""
