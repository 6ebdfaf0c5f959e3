"""Losses of several predictions at once, with a gradient to each."""
