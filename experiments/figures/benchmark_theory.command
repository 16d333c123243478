python -m experiments.benchmark_theory --pairs=10000 --workdir=results/benchmark_theory
