"""Train and validation splits of annotation files."""
