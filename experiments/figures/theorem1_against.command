python -m experiments.theorem1 --against=neural_tangents
