"""Memory-saving convolution, norm and residual operators."""
