python -m experiments.benchmark --of=sparse --repeats=3
