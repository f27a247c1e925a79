"""The admin listener: health, metrics, the live streams."""
