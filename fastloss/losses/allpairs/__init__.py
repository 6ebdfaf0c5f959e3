"""Losses of a batch of embeddings, each compared with all others."""
