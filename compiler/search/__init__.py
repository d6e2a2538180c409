"""Searching for the best model of each footprint: what is measured, what is tried, what came out."""
