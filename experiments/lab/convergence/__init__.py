"""What the experiments on "Empirically Characterizing Overparameterization Impact on Convergence" share.

In: networks, and the histories of their runs. Out: halting times, the geometry of paths, verdicts with intervals.
"""
