"""Doubles that tests talk to and through: peers on real sockets, a clock turned by hand, a check for leaks.

Peers do exactly what a test tells them, byte by byte, and say exactly what they saw. Fakes, not mocks: the code under
test runs unchanged against them.
"""
