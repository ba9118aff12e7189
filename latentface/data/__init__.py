"""Files -> batches: label files, latents on disk, and the encoder that writes them."""
