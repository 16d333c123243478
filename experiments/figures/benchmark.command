python -m experiments.benchmark
