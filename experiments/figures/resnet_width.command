python -m experiments.resnet_width --preset=small --dataset=cifar100 --workdir=results/resnet_width
