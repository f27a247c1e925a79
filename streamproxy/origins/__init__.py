"""Where a response comes from."""
