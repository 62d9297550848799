"""What the hub's operator can type, one module per group of commands."""
