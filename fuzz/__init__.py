"""Coverage-guided fuzzing of the parts without I/O. `python -m fuzz --help` shows how to run it; `tests/unit/fuzz` runs
every target over its corpus without a fuzzer."""
