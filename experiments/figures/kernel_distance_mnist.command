python -m experiments.kernel_distance --preset=paper --dataset=mnist --workdir=results/figure8
