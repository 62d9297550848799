"""The federation as the hub sees it: who holds what, how a question reaches them, how their parts become one answer."""
