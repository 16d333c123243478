python -m experiments.compile --of=figure8 --of=language --of=imagenet --machines=h100
