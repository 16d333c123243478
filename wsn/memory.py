"""How much memory this process may have, and the refusal of what needs more, before any of it is taken."""

import math
import os
from pathlib import Path

from wsn.errors import UserError

NETWORK_BYTES = 1000  # of any network that is trained, at least: its weights, gradients and curves


def limit(root: Path = Path("/")) -> float:
    """Bytes of the machine's memory, or of the control group that this process is in where that has less."""
    found = [float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found[0]
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds not in ("", "memory"):  # version 2 has no kinds
            continue
        top, name = (
            root / "sys/fs/cgroup" / kinds,
            "memory.limit_in_bytes" if kinds else "memory.max",
        )
        inner = top / place.lstrip("/")
        for folder in (inner, *inner.parents):  # in a container the place may be one of outside: then the top
            if folder.is_relative_to(top):
                found.append(_number(folder / name))
    return min(found)


def check(what: str, need: float, have: float | None = None) -> None:
    """Raises UserError when `what` (a flag and its value) needs more bytes than there are; `have`: of a device."""
    if need <= 2**20:
        return
    have = limit() if have is None else have
    if need > have:
        raise UserError(
            f"{what} needs about {shown(need)} of memory, and there are {shown(have)}: give less, or a larger machine"
        )


def shown(size: float) -> str:
    """Bytes, in GiB of three digits."""
    return f"{size / 2**30:.3g} GiB"


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # there is none, or "max"
        return math.inf
