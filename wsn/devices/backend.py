"""The first use of JAX's devices: errors of the environment in one line, and threads within a CPU quota."""

import os
import subprocess
import sys
from functools import cache

import jax

from wsn.errors import UserError
from wsn.machine import affinity, usable_cores

# Nothing needs to be checked of these flags, which tests and job scripts set.
KNOWN_FLAGS = ("--xla_force_host_platform_device_count=",)


def initialize() -> tuple[jax.Device, ...]:
    """All devices of the run. Raises UserError for variables that JAX or XLA cannot use.

    XLA starts a thread for each core that the process may run on, which a container's CPU quota would make wait for
    each other; PJRT_NPROC is their number.
    """
    if usable_cores() < len(affinity()) and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(usable_cores()))
    check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        return tuple(jax.devices())
    except (
        RuntimeError,
        AssertionError,
        ValueError,
    ) as error:  # AssertionError: a platform that finds no device
        platforms = jax.config.values["jax_platforms"]
        reason = " ".join(str(error).split(" (set JAX_PLATFORMS", 1)[0].split()) or "it finds no device"
        variable = f"JAX_PLATFORMS={platforms}" if platforms else "JAX's devices"
        raise UserError(
            f"{variable} cannot be used ({reason}): set JAX_PLATFORMS=cpu, or unset it"
        ) from error


@cache
def check_xla_flags(flags: str) -> None:
    """Raises UserError for XLA_FLAGS that would abort the process, found by another process that starts with them."""
    if all(flag.startswith(KNOWN_FLAGS) and flag.partition("=")[2].isdecimal() for flag in flags.split()):
        return
    command = [sys.executable, "-c", "import jax; jax.config.update('jax_platforms', 'cpu'); jax.devices()"]
    started = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"XLA_FLAGS": flags},
    )
    if started.returncode < 0 or "XLA_FLAGS" in started.stderr:
        lines = [line.rpartition("] ")[2] for line in started.stderr.splitlines() if "XLA_FLAGS" in line]
        raise UserError(f"XLA_FLAGS={flags}: {lines[0] if lines else 'XLA aborts'}: mend or unset it")
