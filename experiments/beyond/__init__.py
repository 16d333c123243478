"""Experiments beyond both papers."""
