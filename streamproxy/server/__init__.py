"""HTTP to clients: the protocols, and the ASGI servers that run them."""
