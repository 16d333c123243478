python -m experiments.halting_time --preset=an4 --data_dir=an4 --widths=8,16,32,64 --seeds=2
