python -m experiments.kernel_distance
