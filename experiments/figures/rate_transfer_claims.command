python -m experiments.rate_transfer
