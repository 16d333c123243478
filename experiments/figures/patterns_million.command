python -m experiments.patterns --preset=million --execution=sparse --workdir=results/patterns_million
