"""What a process may use of its machine: memory and cores, within the limits of its container and of the scheduler."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from wsn.errors import UserError

ROOT = Path("/")
PLATFORMS = "Linux and macOS (on Windows: WSL 2)"
NETWORK_BYTES = 1000  # least memory of any network in training: weights, gradients and curves


def check_platform() -> None:
    """Raises UserError where training and commands cannot run; the library can be imported there."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise UserError(f"wsn trains on {PLATFORMS}; this system has no POSIX file locks") from None


def memory_limit(root: Path = ROOT) -> float:
    """Bytes of physical memory, or the limit of the process's control group if that is less; infinite if unknown."""
    limits = []
    if hasattr(os, "sysconf"):
        limits.append(float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE"))
    for folder in _control_groups("memory", root):
        limits += _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    return min(limits, default=math.inf)


def check_memory(argument: str, need: float, have: float | None = None) -> None:
    """Raises UserError if `argument` (name and value) needs more bytes than there are; `have`: of a device."""
    if need <= 2**20:
        return
    have = memory_limit() if have is None else have
    if need > have:
        raise UserError(
            f"{argument} needs about {gib(need)} of memory, and there are {gib(have)}: give less, or a larger machine"
        )


def gib(size: float) -> str:
    """Bytes as GiB, three digits."""
    return f"{size / 2**30:.3g} GiB"


def affinity() -> frozenset[int]:
    """The cores that this thread may run on, as a scheduler or `taskset` set them."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def cpu_quota(root: Path = ROOT) -> float:
    """CPU time per second that the process's control groups allow it (Docker's `--cpus`); infinite without a quota."""
    quotas = [math.inf]
    for folder in _control_groups("cpu", root):
        limit = _numbers(folder / "cpu.max") or [
            *_numbers(folder / "cpu.cfs_quota_us"),
            *_numbers(folder / "cpu.cfs_period_us"),
        ]
        match limit:
            case quota, period if quota > 0 and period > 0:  # version 1 writes -1 for none
                quotas.append(quota / period)
    return min(quotas)


def usable_cores(root: Path = ROOT) -> int:
    """How many cores this process can keep busy: those of its affinity, at most its CPU quota, rounded up."""
    return min(len(affinity()), math.ceil(min(cpu_quota(root), 2**20)))


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, of version 1 or 2, each with those that enclose it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for controllers, place in (line.split(":", 2)[1:] for line in lines if line.count(":") > 1):
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has no controllers here, and is mounted beside version 1 where a system has both.
        for mount in (controllers, controller) if controllers else ("", "unified"):
            top = root / "sys/fs/cgroup" / mount
            # This folder may not exist in a container, whose group is mounted at the top.
            inner = top / place.lstrip("/")
            yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(top))


def _numbers(path: Path) -> list[float]:
    """The numbers in a file, "max" as infinity; none if it cannot be read."""
    try:
        words = path.read_text(encoding="utf-8").split()
        return [math.inf if word == "max" else float(word) for word in words]
    except (OSError, ValueError):
        return []
