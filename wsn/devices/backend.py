"""The first use of JAX's devices: errors of the environment in one line, and threads within a CPU quota."""

import os
import re
import subprocess
import sys
from functools import cache

import jax

from wsn.devices import targets
from wsn.errors import UserError
from wsn.machine import affinity, usable_cores

# Not checked, since it is common in tests and job scripts.
DEVICE_COUNT = r"--xla_force_host_platform_device_count=\d+"


def initialize() -> tuple[jax.Device, ...]:
    """All devices of the run. Raises UserError for environment variables that JAX or XLA cannot use.

    XLA starts a thread per core of the affinity. Under a lower CPU quota they would wait for each other, so their
    number (PJRT_NPROC) becomes the number of usable cores. Inside `targets.target` they are those of the target.
    """
    if machine := targets.current():
        return machine.devices
    if usable_cores() < len(affinity()) and "NPROC" not in os.environ:
        os.environ.setdefault("PJRT_NPROC", str(usable_cores()))
    check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        # On a TPU slice of several hosts JAX lists the chips of all, though each host may run by itself.
        return tuple(jax.devices() if jax.distributed.is_initialized() else jax.local_devices())
    except (RuntimeError, AssertionError, ValueError) as error:  # AssertionError: a platform without a device
        reason = " ".join(str(error).split(" (set JAX_PLATFORMS")[0].split()) or "it has no device"
        if platforms := jax.config.values["jax_platforms"]:
            message = (
                f"JAX_PLATFORMS={platforms} cannot be used ({reason}): set JAX_PLATFORMS=cpu, or unset it"
            )
        else:
            message = (
                f"JAX cannot initialize its devices ({reason}): correct the variables JAX_… and XLA_FLAGS"
            )
        raise UserError(message) from error


@cache
def check_xla_flags(flags: str) -> None:
    """Raises UserError for XLA_FLAGS that would abort this process, by starting XLA with them in another one."""
    if not flags.strip() or re.fullmatch(DEVICE_COUNT, flags.strip()):
        return
    command = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.make_cpu_client()"]
    environment = os.environ | {"XLA_FLAGS": flags}
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=environment)
    reasons = re.findall(r"^[EF]\d{4} .*?\] (.*?)(?: \(.*)?$", ended.stderr, re.MULTILINE)
    if ended.returncode and reasons:
        raise UserError(f"XLA_FLAGS={flags} cannot be used ({reasons[0].rstrip('.')}): correct or unset it")
