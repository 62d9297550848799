"""ClickHouse behind one interface: ``interface`` is the contract, ``embedded`` the process that keeps it.

In that process :mod:`~syndb_common.engine.backend` lies between the work and ClickHouse, be it chdb or a server.
"""
