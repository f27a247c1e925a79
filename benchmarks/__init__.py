"""Benchmarks: streamproxy beside other proxies, in one sitting. ``python -m benchmarks --help``."""
