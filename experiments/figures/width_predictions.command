python -m experiments.width_predictions --workdir=/root/bg/theory/predictions
