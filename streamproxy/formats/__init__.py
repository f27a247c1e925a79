"""Event streams and newline-delimited JSON: boundaries and keepalives. No I/O."""
