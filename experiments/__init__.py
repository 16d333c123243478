"""Experiments: one file a figure, in a folder for each paper (`width`, `convergence`), for what goes beyond both
(`beyond`), for theory and for benchmarks. `lab` is what they share; there is no training logic here.
"""

import sys
from pathlib import Path

FOLDERS = ("width", "convergence", "beyond", "theory", "benchmarks")
# So that commands have short names: `python -m experiments.kernel_distance` runs experiments/width/kernel_distance.py.
__path__ += [str(Path(__path__[0], folder)) for folder in FOLDERS]

if sys.argv[:1] == [
    "-m"
]:  # python -m experiments.NAME; a wrong name ends before the imports, which take seconds
    from experiments.lab import endings

    endings.begin(unwind=False)
    from experiments.lab import contents

    contents.check_name(sys.orig_argv)
    endings.import_libraries()
