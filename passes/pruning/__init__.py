"""Removal of channels, heads, hidden units and blocks: which indices depend on each other, which matter least."""
