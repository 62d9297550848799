"""One module per layout of the store; what is here once released is never changed."""
