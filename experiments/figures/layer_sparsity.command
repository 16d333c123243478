python -m experiments.layer_sparsity
