"""Experiments of "Are wider nets better given the same number of parameters?" (ICLR 2021)."""
