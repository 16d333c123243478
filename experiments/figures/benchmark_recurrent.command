python -m experiments.benchmark --of=recurrent
