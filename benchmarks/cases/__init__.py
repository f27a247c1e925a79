"""What proxies do with streams, case by case, each shown over sockets: ``python -m benchmarks.cases --help``."""
