python -m experiments.rate_transfer --preset=transformer
