"""The documentation's generated page."""
