python -m experiments.benchmark --of=recurrent --networks=transformer
