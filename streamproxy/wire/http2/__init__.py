"""HTTP/2 without I/O: frames, heads and the state of a connection, for clients and servers."""
