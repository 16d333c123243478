"""Peak memory, measured in separate processes."""

import subprocess
import sys

import pytest

from wsn.native import library

KERNELS = """
import sys
import jax
from experiments.theory import inputs
from kernels.closed_forms import arc_cosine
from kernels.empirical import simulated_distance
from kernels.theorem1 import sparse_kernels

x, y, _ = inputs.gaussian(784, int(sys.argv[1]), seed=0)
sparse_kernels(x, y, [0.03, 0.1], tolerance=1e-5)
sparse_kernels(x[:4], y[:4], [0.003, 0.1], tolerance=0.0)  # the finest grid
simulated_distance(jax.random.key(0), 0.1, 512, x, y, arc_cosine(x, y, 1) / 784, networks=2)
"""
# The first kernel alone would take 1.2 GiB dense, and its activations of 1000 examples as much again.
WIDE = """
import numpy as np
from wsn.data.splits import Splits
from wsn.spec import Group, Spec
from wsn.training import train

width, counts = 400_000, (300_000, 300_000)
images, labels = np.zeros((1000, 28, 28, 1), np.uint8), np.zeros(1000, np.int32)
some, deviation = (images[:20], labels[:20]), np.ones((1, 1, 1), np.float32)
splits = Splits(*some, *some, images, labels, 0 * deviation, deviation, 10)
kept = tuple(zip(("hidden_0", "output"), counts))
spec = Spec(dataset="zeros", width=width, kept=kept, epochs=1, batch_size=10, learning_rate=0.1)
for point in train.train(Group((spec,), (0,)), splits, execution="sparse"):
    assert point.sparse == ("hidden_0", "output")
"""
# Not getrusage, whose peak includes the parent that the process was forked from.
PEAK = """
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 2**20)
"""


def peak_gib(program: str, *arguments: str) -> float:
    """Peak resident memory of a program."""
    ended = subprocess.run(
        [sys.executable, "-c", program + PEAK, *arguments], check=True, capture_output=True, text=True
    )
    return float(ended.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_pairs_of_784_features_fit_in_2_gib():
    assert peak_gib(KERNELS, "10000") < 2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(not library.available(), reason="no C++ compiler")
def test_the_memory_of_a_wide_sparse_network_is_that_of_its_kept_weights():
    assert peak_gib(WIDE) < 0.75
