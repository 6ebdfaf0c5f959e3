"""Losses with one loss per sequence."""
