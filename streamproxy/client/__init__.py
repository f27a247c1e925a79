"""Upstream clients: the interface (`base`), our own HTTP/1.1 and HTTP/2 clients, and adapters for httpx and others."""
