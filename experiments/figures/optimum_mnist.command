python -m experiments.optimum --dataset=mnist --workdir=results/optimum
