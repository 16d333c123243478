python -m experiments.resnet_width --preset=short --widths=8,12 --seeds=1 --dense_seeds=0
