python -m experiments.resnet_width --preset=short --widths=8,10,12,18,27 --seeds=2 --dense_seeds=0
