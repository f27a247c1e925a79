"""Which route serves a request."""
