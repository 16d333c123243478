python -m experiments.benchmark --of=resnet
