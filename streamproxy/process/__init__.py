"""The program: listeners, signals, workers, reload, drain and takeover."""
