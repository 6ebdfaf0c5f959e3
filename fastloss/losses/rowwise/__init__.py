"""Losses with one loss per row of classes."""
