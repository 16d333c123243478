python -m experiments.resnet_width --preset=paper --dataset=cifar10 --base_widths=4 --widths=4,8,12,18,27,40,64 --train_samples=10000 --dense_seeds=0 --seeds=2 --epochs=15
