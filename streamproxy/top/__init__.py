"""`streamproxy top`: the streams of a running proxy in a terminal, from its admin listener."""
