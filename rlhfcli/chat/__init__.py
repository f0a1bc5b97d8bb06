"""Talking to a model over several turns."""
