python -m experiments.compile --of=figure8 --of=language --machines=v5e
