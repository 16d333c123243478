python -m experiments.compile --of=figure8,figure6_bfloat16,language,imagenet --machines=v5e
