"""The program as its users run it, with the real programs that stand around it."""
