"""ClickHouse behind one interface: ``interface`` is the contract, ``local`` keeps it, by a process on this machine.

In that process :mod:`~syndb_common.engine.backend` lies between the work and ClickHouse, be it chdb or a server.
"""
