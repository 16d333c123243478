python -m experiments.linear_network --workdir=experiments/figures
