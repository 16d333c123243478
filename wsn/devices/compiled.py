"""JAX's persistent compilation cache, in a folder for this kind of machine.

JAX writes entries in place, and its own size limit needs a lock around every look-up. So entries that a killed process
or a full disk cut short, and the oldest beyond a size limit, are removed at the next start.
"""

import contextlib
import hashlib
import os
import platform
import tempfile
import uuid
import warnings
import zlib
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from wsn.devices import hosts
from wsn.errors import UserError
from wsn.machine import usable_cores

MOST_BYTES = 256 * 2**20
# Programs that compile faster are not worth a file. Of the 52 programs of a ResNet-18 the 11 slower ones save as much
# as all: a second start takes 5.3 s instead of 13 s, with JAX's own limit of 1 s it takes 7 s.
LEAST_SECONDS = 0.05
# Older versions print an error for every program that they load on a CPU with AVX-512, though nothing is wrong.
LEAST_JAX = (0, 10, 2)
# Lines of /proc/cpuinfo, on x86 and ARM.
_KIND = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")


def keep(folder: Path) -> None:
    """Store compiled programs in `folder` and load them from there; call it before anything is compiled.

    A cache that the user set, by JAX_COMPILATION_CACHE_DIR or in jax.config, stays; raises UserError if it cannot be
    written. There is none if `folder` cannot be written, for several processes on CPUs, or if they see other folders:
    GPUs compile together, and would wait for a process that found its program in a cache of its own.
    """
    settings = jax.config.values
    user_folder = settings["jax_compilation_cache_dir"]
    if not settings["jax_enable_compilation_cache"]:
        return
    if user_folder is not None:
        check_writable(user_folder)
        return
    # Of several processes on CPUs process 0 alone would find its programs, since JAX's keys differ, and Gloo gives up
    # after it has waited 30 s for the others, which compile.
    several_cpus = not hosts.is_single_process() and jax.default_backend() == "cpu"
    if several_cpus or jax.__version_info__ < LEAST_JAX:
        return
    mark = hosts.broadcast(prepared(folder) if hosts.is_leader() else None)
    if hosts.any_process(mark is None or not (folder / mark).exists()):
        return
    machine_folder = (folder / mark).parent
    if hosts.is_leader():
        (folder / mark).unlink(missing_ok=True)
    compilation_cache.reset_cache()  # else JAX keeps to what it decided at the first program, of `hosts`
    # Unreadable entries are compiled again, and unwritable ones are not stored: no user needs to act.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(machine_folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)


def prepared(folder: Path) -> Path | None:
    """Make the folder of this machine, without damaged and old entries, and in it a new file, whose path is returned.

    None if that is not possible.
    """
    mark = Path(machine(), uuid.uuid4().hex)
    try:
        (folder / mark).parent.mkdir(parents=True, exist_ok=True)
        drop_damaged((folder / mark).parent)
        drop_oldest(folder, MOST_BYTES)
        (folder / mark).touch()
    except OSError:
        return None
    return mark


def check_writable(folder: str) -> None:
    """Raises UserError if the user's cache is a local folder that cannot be made or written."""
    if "://" in folder:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"JAX_COMPILATION_CACHE_DIR={folder} cannot be written ({error.strerror}): name another folder, or unset it"
        ) from error


def machine() -> str:
    """A name for what XLA compiles for on a CPU: its model, its instruction sets and the number of cores.

    JAX's cache keys ignore these, and a program of another machine could contain an illegal instruction.
    """
    return hashlib.sha256("\n".join([*cpu(), str(usable_cores())]).encode()).hexdigest()[:16]


def cpu() -> list[str]:
    """Lines that describe the model of the CPU and its instruction sets."""
    lines = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        first_core = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        lines += [line for line in first_core if line.startswith(_KIND)]
    return lines


def drop_damaged(folder: Path) -> None:
    """Remove truncated entries; those that an earlier call checked are not read again."""
    checked = folder / "checked"
    since = checked.stat().st_mtime_ns if checked.exists() else 0
    checked.touch()
    for entry in folder.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):  # another process may remove it
            if entry.stat().st_mtime_ns >= since and not is_whole(entry.read_bytes()):
                entry.unlink()


def is_whole(entry: bytes) -> bool:
    """Whether a zlib stream is complete with the right checksum. Other formats, which JAX may write, pass."""
    if entry and not entry.startswith(b"\x78"):
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof


def drop_oldest(folder: Path, most_bytes: int) -> None:
    """Remove the oldest files below `folder` until the rest has at most `most_bytes`."""
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
