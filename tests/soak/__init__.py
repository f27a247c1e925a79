"""Everything at once for as long as one likes: `python -m tests.soak --help`. A short run of it is a test."""
