"""ClickHouse behind one interface. ``interface`` is the contract; ``embedded`` runs chdb in a process of its own."""
