python -m experiments.benchmark --of=input --workdir=results/benchmark_input
