"""Losses with one loss per element."""
