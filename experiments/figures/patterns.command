python -m experiments.patterns
