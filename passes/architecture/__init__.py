"""Layers replaced by cheaper ones, which training brings near the original: factors, heads, activations, exits."""
