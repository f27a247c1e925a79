"""Event streams and newline-delimited JSON: boundaries, keepalives and inspectors. No I/O."""
