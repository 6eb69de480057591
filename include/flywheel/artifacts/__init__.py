"""The artifact root: known by content, written whole, verified."""
