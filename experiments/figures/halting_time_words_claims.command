python -m experiments.halting_time --preset=words --data_dir=wikitext-2
