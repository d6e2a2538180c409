"""Programs for other tools: ONNX files."""
