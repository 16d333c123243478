python -m experiments.width_test --families=digits-4,digits-8,mnist-8-512,mnist-2,mnist-6
