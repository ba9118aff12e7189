"""Latent -> faces."""
