"""Protocol rules without I/O: pure functions and small state machines. No await, clock, socket or log in here."""
