"""Batch -> predictions. The model knows nothing of files but its own checkpoint."""
