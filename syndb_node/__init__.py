"""``syndb-node``: one institution's daemon. Owns the engine process with the rows, obeys its owner's policy and its
pinned hub, in this order."""
