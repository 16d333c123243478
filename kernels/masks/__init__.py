"""Means over masks, exactly: an input pair and connectivities → the moments of masked kernels, with error estimates."""
