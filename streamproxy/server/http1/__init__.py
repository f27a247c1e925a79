"""HTTP/1.1 to clients, in a protocol class of our own."""
