"""``syndb-hub``: knows the nodes of a federation and what they hold, and answers one question across all of them by
plans that travel and parts that merge. Users reach it by HTTP, nodes by the actors' messages."""
