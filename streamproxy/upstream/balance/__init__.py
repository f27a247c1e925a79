"""How an endpoint is picked among those that are available."""
