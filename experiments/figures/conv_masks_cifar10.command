python -m experiments.conv_masks --preset=small --dataset=cifar10 --base_widths=4 --widths=4,12,27 --epochs=15
