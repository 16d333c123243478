python -m experiments.halting_time
