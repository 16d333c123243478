"""Experiments of "Empirically Characterizing Overparameterization Impact on Convergence" (2019)."""
