python -m experiments.benchmark --of=sparse --networks=transformer
