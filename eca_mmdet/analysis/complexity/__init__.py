"""Parameters, multiply-adds and memory of detectors."""
