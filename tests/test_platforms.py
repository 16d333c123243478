"""On a platform without POSIX, such as Windows, the library works and commands end in one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import wsn
from wsn.machine import PLATFORMS

ROOT = Path(wsn.__file__).parents[1]
# What Windows lacks, of what this repository uses.
WINDOWS = """
import os, signal, sys
sys.modules |= dict.fromkeys(("fcntl", "resource", "termios", "pwd", "grp"))
for name in ("EX_TEMPFAIL", "O_NONBLOCK", "O_CLOEXEC", "sysconf", "sched_getaffinity", "sched_setaffinity", "mkfifo"):
    delattr(os, name)
for name in ("SIGALRM", "alarm", "pthread_sigmask"):
    delattr(signal, name)
"""
LIBRARY = """
import jax, jax.numpy as jnp, optax
import kernels.theorem1, wsn.data, wsn.records.runs, wsn.records.workers, wsn.training.train
from kernels import closed_forms
from wsn import sparsity
from wsn.spec import Group, Spec
params = {"hidden": {"kernel": jnp.ones((8, 4))}, "output": {"kernel": jnp.ones((4, 2))}}
mask = sparsity.random_mask(params, key=jax.random.key(0), total=20)
optimizer = sparsity.with_static_mask(optax.sgd(0.1), mask)
state = optimizer.init(sparsity.mask_and_rescale(params, mask))
print(sum(sparsity.num_kept(mask).values()))
try:
    group = Group((Spec(dataset="digits", width=4, epochs=1, batch_size=8, learning_rate=0.1),), (0,))
    wsn.records.runs.run([group], "out", lambda spec: None)
except ValueError as error:
    print(error)
"""


@pytest.fixture
def run(tmp_path):
    """Run Python there; returns its exit code and output."""
    (tmp_path / "sitecustomize.py").write_text(WINDOWS)

    def run(*arguments: str) -> tuple[int, str]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        ended = subprocess.run(
            [sys.executable, *arguments], env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8"
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


def test_the_library_can_be_used_and_training_is_refused_in_one_line(run):
    assert run("-c", LIBRARY) == (0, f"20\nwsn trains on {PLATFORMS}; this system has no POSIX file locks\n")


@pytest.mark.parametrize("name", ["kernel_distance", "theorem1", "report"])
def test_a_command_is_one_line(run, name):
    assert run("-m", f"experiments.{name}") == (
        1,
        f"error: wsn trains on {PLATFORMS}; this system has no POSIX file locks\n",
    )
