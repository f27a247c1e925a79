"""What carries the application: the HTTP/1.1 protocol, the engines, and the beginning and end of the program."""
