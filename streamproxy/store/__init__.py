"""What outlives a request: streams that clients come back to, counts of limits, events in Redis."""
