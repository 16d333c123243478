python -m experiments.own_network
