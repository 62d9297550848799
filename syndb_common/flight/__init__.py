"""Arrow Flight: results leave and uploads enter by it, under TLS, authorised by a ticket or a token."""
