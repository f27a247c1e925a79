"""Upstream clients: what one is (`base`), over httpx (`httpx`), and ours (`native`)."""
