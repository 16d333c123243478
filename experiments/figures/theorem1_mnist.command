python -m experiments.theorem1 --dataset=mnist --workdir=results/theorem1
