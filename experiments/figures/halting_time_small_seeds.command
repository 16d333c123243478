python -m experiments.halting_time --preset=small
