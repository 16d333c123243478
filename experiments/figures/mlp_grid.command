python -m experiments.mlp_grid --preset=paper --dataset=mnist --epochs=30 --workdir=results/figure5
