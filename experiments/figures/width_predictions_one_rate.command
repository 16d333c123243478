python -m experiments.width_predictions --one_rate --families=mnist-6,mnist-12
