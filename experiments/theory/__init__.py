"""Theorem 1 and the optimum connectivity, exact and simulated."""
