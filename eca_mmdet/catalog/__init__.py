"""Architectures, mechanisms, configs, published numbers and download links, as data."""
