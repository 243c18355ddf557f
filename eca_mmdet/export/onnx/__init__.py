"""ONNX export of detectors."""
