python -m experiments.benchmark_sparse --repeats=3
