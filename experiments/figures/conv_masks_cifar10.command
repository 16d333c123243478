python -m experiments.conv_masks --preset=paper --dataset=cifar10 --base_widths=4 --widths=4,12,27 --train_samples=10000 --seeds=2 --epochs=15
