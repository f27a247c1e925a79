"""What bodies say: the forms of errors, and what passes inside a stream. No I/O."""
