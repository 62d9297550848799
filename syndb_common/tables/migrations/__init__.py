"""syndb_common/tables/migrations"""
