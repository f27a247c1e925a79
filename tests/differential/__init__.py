"""Other proxies in front of this one and behind it: what one takes for one message, the other takes for the same.

`python -m tests.differential --help`. A few hundred cases with nginx are a test.
"""
