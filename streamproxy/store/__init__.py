"""State that outlives a request: streams that clients resume, counts of limits, and events from Redis."""
