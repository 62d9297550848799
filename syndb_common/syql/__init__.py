"""SyQL: text -> checked plan -> ClickHouse SQL, split into a part for nodes and a part for the hub."""
