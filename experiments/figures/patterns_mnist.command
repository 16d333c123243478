python -m experiments.patterns --preset=mnist
