"""The promise of bounded memory, kept by a process of its own."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import jax
from experiments.lab import inputs
from kernels.closed_forms import arc_cosine
from kernels.empirical import mean_squared_distance, sampled_networks
from kernels.theorem1 import sparse_kernels

x, y, _ = inputs.gaussian(784, int(sys.argv[1]), seed=0)
sparse_kernels(x, y, [0.03, 0.1], tolerance=1e-5)
sparse_kernels(x[:4], y[:4], [0.003, 0.1], tolerance=0.0)  # the finest grid
networks = sampled_networks(jax.random.key(0), 0.1, 512, 784, networks=2)
mean_squared_distance(networks, x, y, arc_cosine(x, y, 1) / 784)
# Not getrusage: its peak is also that of the parent which the process was forked from.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) / 2**20)
"""


def peak_gib(pairs: int) -> float:
    """Peak resident memory of exact kernels and of the distance of two networks."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(pairs)], check=True, capture_output=True, text=True
    )
    return float(ended.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ten_thousand_pairs_of_784_features_fit_in_2_gib():
    assert peak_gib(10_000) < 2
