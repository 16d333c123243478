"""What the experiments on "Are wider nets better given the same number of parameters?" share: one module a figure."""
