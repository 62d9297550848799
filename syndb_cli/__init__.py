"""``syndb``: the command line for scientists and node operators, one module per group of commands."""
