"""The admin listener: health, metrics, live streams."""
