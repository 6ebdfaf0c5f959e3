"""The formula language: what a loss is, written once and lowered to every backend."""
