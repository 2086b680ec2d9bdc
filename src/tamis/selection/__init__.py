"""Scores in, a selection out."""
