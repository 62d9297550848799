"""The actors of the federation.

``runtime`` is the actor system itself and knows nothing of SynDB; ``remote`` carries messages between daemons over
libp2p. The modules here are the parts a hub or node is made of: the hub's registry, health monitor and schema
publisher, the node's cluster actor, schema keeper and analytics delegate.
"""
