"""What a person opens: the demo and its own drawn pictures, the local page."""
