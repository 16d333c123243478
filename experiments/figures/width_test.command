python -m experiments.width_test
