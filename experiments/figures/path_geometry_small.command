python -m experiments.path_geometry --preset=small
