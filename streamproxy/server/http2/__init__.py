"""HTTP/2 to clients, in a protocol class of our own."""
