"""Predictions -> numbers: average precision on any labelled pictures, and the WIDER FACE protocol."""
