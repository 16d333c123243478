python -m experiments.benchmark_resnet
