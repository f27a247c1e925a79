"""Balancing policies: how one of the available endpoints is picked."""
