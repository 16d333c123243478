"""Compiled programs, kept between starts: jax's persistent cache, in a folder of this kind of machine.

jax writes an entry without a temporary file and its own bound on the size needs a lock around every look-up, so what a
killed process or a full disk cut short, and what is too much, goes at the next start.
"""

import contextlib
import hashlib
import os
import platform
import warnings
import zlib
from pathlib import Path

import jax

from wsn.devices.placement import usable_cores

MOST_BYTES = 256 * 2**20
# A program that compiles faster is not worth a file: of the 52 programs of a ResNet-18, the 11 above it save as much as
# all (a second start of 5.3 s instead of 13; with jax's own bound of 1 s it is 7).
LEAST_SECONDS = 0.05
# Before, XLA printed an error for every program that it loaded on a CPU with AVX-512, though nothing was wrong.
LEAST_JAX = (0, 10, 2)
_KIND = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "CPU ",
    "Features",
)  # of /proc/cpuinfo, x86 and ARM


def keep(folder: Path) -> None:
    """Keep compiled programs in `folder`, and take them from there; call it before anything is compiled.

    What the user has set, by JAX_COMPILATION_CACHE_DIR or in jax.config, stays. Without a word there is no cache where
    the folder cannot be written, and in a run over several processes: there GPUs compile together, and would wait for
    the process that found its program.
    """
    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is not None or not settings["jax_enable_compilation_cache"]:
        return
    if jax.distributed.is_initialized() or jax.__version_info__ < LEAST_JAX:
        return
    own = folder / machine()
    try:
        own.mkdir(parents=True, exist_ok=True)
        drop_damaged(own)
        drop_oldest(folder, MOST_BYTES)
    except OSError:
        return
    # An entry that cannot be read is compiled anew, one that cannot be written is not kept: nobody needs to act.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(own))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def machine() -> str:
    """A name for what XLA compiles for on a CPU: its kind, what it can do, and how many cores there are.

    jax's keys say nothing of them; a program of another machine could meet an instruction that is not there.
    """
    return hashlib.sha256("\n".join([*cpu(), str(usable_cores())]).encode()).hexdigest()[:16]


def cpu() -> list[str]:
    """The kind of the CPU, and what it can do, in lines."""
    told = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first_core = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        told += [line for line in first_core if line.startswith(_KIND)]
    return told


def drop_damaged(folder: Path) -> None:
    """Remove the entries that were cut short; those that an earlier call has seen are not read again."""
    checked = folder / "checked"
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    checked.touch()
    for entry in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process is at it too
            if entry.stat().st_mtime_ns >= since and not is_whole(entry.read_bytes()):
                entry.unlink()


def is_whole(entry: bytes) -> bool:
    """Whether a zlib stream comes to its end with the right checksum. Others, which jax may write, pass."""
    if entry and not entry.startswith(b"\x78"):
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof


def drop_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the files below `folder` that were written first, until the rest has at most so many bytes."""
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                files.append((path.stat().st_mtime_ns, path.stat().st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size
