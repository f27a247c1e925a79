"""The program: listeners, signals, workers, reload, drain, takeover."""
