"""Experiments: flags, presets and drawing. One file a figure; no training logic."""

import sys

if sys.argv[:1] == ["-m"]:  # python -m experiments.X, which takes seconds to import all that it needs
    from experiments.lab import endings

    endings.begin()
    from experiments.lab import contents

    contents.check_name(sys.orig_argv)
