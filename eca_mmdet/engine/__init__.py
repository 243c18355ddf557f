"""Training that is interrupted, fails or meets broken data, and goes on exactly."""
