"""`streamproxy top`: shows the streams of a running proxy in a terminal, using its admin listener."""
