python -m experiments.benchmark --of=theory --pairs=10000 --workdir=results/benchmark_theory
