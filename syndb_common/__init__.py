"""What hub, node and command line must agree on: messages, errors, settings, tables, plans."""
