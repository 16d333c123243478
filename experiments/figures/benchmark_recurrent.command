python -m experiments.benchmark_recurrent
