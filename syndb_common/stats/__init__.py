"""syndb_common/stats"""
