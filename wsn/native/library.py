"""The library of native ops: compiled on first use by the machine's C++ compiler, kept in the cache folder.

The file is named by a hash of everything it depends on: sources, jaxlib, compiler and version, flags, and the CPU that
it is compiled for. One process compiles while others wait; the file appears whole or not at all, and a corrupt one is
recompiled. If compilation fails there is one line of notice, and sparse layers run in plain JAX.
"""

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jax
import jaxlib
from absl import logging

from wsn import folders, stored
from wsn.devices import compiled
from wsn.errors import one_line

SOURCE = Path(__file__).with_name("windows.cc")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fPIC", "-shared")
COMPILERS = ("c++", "g++", "clang++")
TIMEOUT_SECONDS = 300
# XLA's name → symbol of the library.
TARGETS = {"wsn_sum": "WsnSum", "wsn_value_gradient": "WsnValueGradient"}


@cache
def available() -> bool:
    """Whether XLA can call the native ops in this process; compiles them if necessary."""
    compiler = find_compiler()
    if compiler is None:
        return _unavailable("there is no C++ compiler ($CXX, c++, g++, clang++)")
    try:
        library = load(compiler, folders.cache() / "native")
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        message = getattr(error, "stderr", None) or one_line(error)
        return _unavailable(f"{compiler} compiled no native ops ({message.strip().splitlines()[0]})")
    for target, symbol in TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def _unavailable(reason: str) -> bool:
    logging.warning("%s: sparse layers run in plain JAX, several times slower", reason)
    return False


def find_compiler() -> str | None:
    """The path of the C++ compiler: $CXX if it is set, else the first of COMPILERS on the path."""
    chosen = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [chosen] if chosen else COMPILERS)), None)


def load(compiler: str, folder: Path) -> ctypes.CDLL:
    """The library from a folder, compiled if it is missing or corrupt; from a temporary one if that is not writable.

    Raises OSError and SubprocessError if it cannot be compiled or loaded.
    """
    path = folder / f"{key(compiler)}.so"
    with contextlib.suppress(OSError):  # missing or corrupt
        return ctypes.CDLL(str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            with contextlib.suppress(OSError):  # another process was first
                return ctypes.CDLL(str(path))
            compile_into(path, compiler)
        return ctypes.CDLL(str(path))
    except OSError:  # of the folder; if it was the compiler's, it is raised again
        with tempfile.TemporaryDirectory(prefix="wsn-native-") as temporary:
            path = Path(temporary) / "library.so"
            compile_into(path, compiler)
            return ctypes.CDLL(str(path))  # stays loaded when its file is deleted


def key(compiler: str) -> str:
    """The name of the library compiled here. Raises OSError and TimeoutExpired if the compiler does not run."""
    version = subprocess.run(
        [compiler, "--version"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=TIMEOUT_SECONDS,
    )
    parts = [jaxlib.__version__, *compiled.cpu(), compiler, version.stdout, *FLAGS]
    parts += [file.read_text(encoding="utf-8") for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def compile_into(path: Path, compiler: str) -> None:
    """Compile the library to `path`, atomically. Raises CalledProcessError, TimeoutExpired, OSError."""
    with stored.staged(path) as place:
        command = [compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), str(SOURCE), "-o", str(place)]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; no lock where the file system has none."""
    with open(path, "wb") as file:
        with contextlib.suppress(OSError, ImportError):  # Windows has no fcntl
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
