"""Measuring both models with numbers that can be trusted; returns plain data, knows nothing of terminals."""
