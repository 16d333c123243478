python -m experiments.resnet_width --preset=short --widths=8,12,18,27,40 --seeds=2 --dense_seeds=0
