"""Experiments: flags, presets and drawing. One file a figure; no training logic."""
