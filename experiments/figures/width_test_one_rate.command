python -m experiments.width_test --one_rate --families=mnist-6,mnist-12
