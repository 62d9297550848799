"""Messages between daemons: libp2p hosts, framed RPC, identity, proof of the password, and who may send what.

``host`` runs libp2p over QUIC and TCP under one identity; ``frames`` cuts its streams into messages; ``rpc`` asks
actors of another daemon as if they were here; ``policy`` says which trust each message needs; ``proof`` shows knowledge
of the federation password without sending it; ``discovery`` finds the hub. Importing libp2p takes more than a second,
so nothing is imported here: import the module that is needed.
"""
