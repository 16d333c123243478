"""Experiments that neither paper has."""
