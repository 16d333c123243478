python -m experiments.width_predictions
