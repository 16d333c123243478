python -m experiments.halting_time --preset=spoken_digits
