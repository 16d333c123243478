python -m experiments.width_or_weights --preset=transformer
