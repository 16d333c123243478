"""Environments that JAX or XLA cannot use end in one line; XLA's threads follow the CPU quota."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from wsn import devices
from wsn.devices import backend
from wsn.errors import UserError
from wsn.spec import Group
from wsn.training import train

COMMAND = ["-m", "experiments.kernel_distance", "--dry_run", "--workdir=out"]
# Variables → the line that a command prints.
BROKEN = {
    "JAX_PLATFORMS=cuda": "JAX_PLATFORMS=cuda cannot be used (",
    "JAX_PLATFORMS=cdua": "JAX_PLATFORMS=cdua cannot be used (Unable to initialize backend 'cdua': ",
    "JAX_PLATFORMS=tpu": "JAX_PLATFORMS=tpu cannot be used (Unable to initialize backend 'tpu': ",
    "XLA_FLAGS=--xla_nonsense=1": "XLA_FLAGS=--xla_nonsense=1 cannot be used (Unknown flag in XLA_FLAGS: ",
    "XLA_FLAGS=nowhere": 'XLA_FLAGS=nowhere cannot be used (Could not open file "nowhere" to read flags ',
    "XLA_FLAGS=--xla_force_host_platform_device_count=x": "XLA_FLAGS=--xla_force_host_platform_device_count=x "
    "cannot be used (Couldn't interpret value x for flag ",
    "JAX_ENABLE_X64=maybe": "invalid truth value 'maybe' for environment 'JAX_ENABLE_X64': correct or unset ",
    "JAX_DEFAULT_MATMUL_PRECISION=x": 'Invalid value "x" for JAX flag jax_default_matmul_precision: correct ',
    "JAX_NUM_CPU_DEVICES=x": 'Invalid value "x" for JAX flag jax_num_cpu_devices: correct or unset ',
    "JAX_COMPILATION_CACHE_DIR=/dev/null/x": "JAX_COMPILATION_CACHE_DIR=/dev/null/x cannot be written (",
}


def start(code: list[str], folder: Path, variable: str) -> subprocess.Popen:
    name, _, value = variable.partition("=")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment = inherited | {"JAX_PLATFORMS": "cpu", name: value}
    return subprocess.Popen(
        [sys.executable, *code],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_command_ends_with_one_line_for_variables_that_jax_cannot_use(tmp_path):
    processes = {variable: start(COMMAND, tmp_path, variable) for variable in BROKEN}
    for variable, process in processes.items():
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 1 and errors.startswith(f"error: {BROKEN[variable]}"), (variable, errors)
        assert errors.count("\n") == 1 and not printed


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no\n  driver"), ValueError("x" * 9)])
@pytest.mark.parametrize("platforms", ["cuda", None])
def test_the_library_raises_one_line_where_it_first_uses_devices(monkeypatch, error, platforms):
    def fail():
        raise error

    config = SimpleNamespace(values={"jax_platforms": platforms})
    distributed = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setattr(
        backend, "jax", SimpleNamespace(local_devices=fail, config=config, distributed=distributed)
    )
    for use in (
        lambda: devices.place(3),
        lambda: next(train.train(Group((tiny.spec(),), (0,)), tiny.SPLITS)),
    ):
        with pytest.raises(UserError, match=r"^(JAX_PLATFORMS=cuda|JAX) cannot [^\n]*$"):
            use()


THREADS = """
import os, sys
from wsn import devices
from wsn.devices import backend
backend.affinity = lambda: frozenset(range(64))
backend.usable_cores = lambda: 3
devices.initialize()
print(os.environ["PJRT_NPROC"], sum("XLAEigen" in open(f"/proc/self/task/{t}/comm").read()
      for t in os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_xla_starts_as_many_threads_as_the_cpu_quota_has_cores(tmp_path):
    inherited, own = (start(["-c", THREADS], tmp_path, v) for v in ("NOTHING=", "PJRT_NPROC=5"))
    assert inherited.communicate(timeout=300)[0] == "3 3\n"
    assert own.communicate(timeout=300)[0] == "5 5\n", "set by the user"


def test_harmless_flags_of_xla_pass():
    backend.check_xla_flags("--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    backend.check_xla_flags("")
