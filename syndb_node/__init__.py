"""syndb_node"""
