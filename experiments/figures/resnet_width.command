python -m experiments.resnet_width --preset=paper --dataset=cifar100 --widths=8,12,18 --train_samples=10000 --dense_seeds=1 --seeds=2 --epochs=20 --workdir=results/resnet_width
