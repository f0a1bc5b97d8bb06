"""Recipes: read strictly, checked at once, written back so that they load again. Imports no torch."""
