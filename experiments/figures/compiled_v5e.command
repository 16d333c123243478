python -m experiments.compile --of=figure8 --machines=v5e
