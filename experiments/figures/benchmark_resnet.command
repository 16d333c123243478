python -m experiments.benchmark_resnet --workdir=results/benchmark_resnet
