"""What is seen of the exchanges from outside: metrics, the access log, the program's own log."""
