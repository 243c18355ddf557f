"""Transfer of a detector checkpoint to other classes."""
