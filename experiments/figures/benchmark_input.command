python -m experiments.benchmark_input --workdir=results/benchmark_input
