python -m experiments.compile --of=figure8 --of=figure6 --of=language --of=imagenet --machines=h100
