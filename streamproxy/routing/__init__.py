"""Selects the route of a request."""
