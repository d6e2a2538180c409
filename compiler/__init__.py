"""fxpress takes a trained PyTorch model and makes it smaller, faster, and provably still right."""
