python -m experiments.compile --of=figure8 --of=figure6_bfloat16 --of=language --of=imagenet --machines=v5e
