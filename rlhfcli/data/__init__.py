"""Rows become dialogues and pairs, and these become token ids. Nothing in this room imports torch."""
