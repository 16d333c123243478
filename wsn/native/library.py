"""The library of native kernels: compiled on first use by the machine's C++ compiler, kept in the cache folder.

A file is named by a hash of all that decides it: sources, jaxlib, compiler and its version, flags, and the CPU, since
it is compiled for just this one. One process compiles and the others wait; the file appears whole or not at all, and
one that was damaged later is compiled anew. Where none can be made there is one line of notice, and layers do without.
"""

import contextlib
import ctypes
import fcntl
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
SECONDS = 300  # after which a compiler counts as broken
TARGETS = {"wsn_sum": "WsnSum", "wsn_value_gradient": "WsnValueGradient"}  # of XLA → symbols of the library


@cache
def available() -> bool:
    """Whether XLA can call the kernels in this process; compiles them where they are not there yet."""
    compiler = find_compiler()
    if compiler is None:
        return _without("there is no C++ compiler ($CXX, c++, g++, clang++)")
    try:
        library = load(compiler, folders.cache() / "native")
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or one_line(error)
        return _without(f"{compiler} made no kernels ({said.strip().splitlines()[0]})")
    for target, symbol in TARGETS.items():
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def _without(reason: str) -> bool:
    logging.warning("%s: sparse layers run in plain JAX, several times slower", reason)
    return False


def find_compiler() -> str | None:
    """The path of the C++ compiler: $CXX alone where it is set, else the first that there is."""
    asked = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [asked] if asked else COMPILERS)), None)


def load(compiler: str, folder: Path) -> ctypes.CDLL:
    """The library from that folder, compiled before where it is missing; from elsewhere if none can be written there.

    A damaged one is compiled anew. Raises OSError and SubprocessError where it cannot be made or loaded.
    """
    path = folder / f"{key(compiler)}.so"
    with contextlib.suppress(OSError):  # there is none, or a damaged one
        return ctypes.CDLL(str(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            with contextlib.suppress(OSError):  # another process was first
                return ctypes.CDLL(str(path))
            compile_into(path, compiler)
        return ctypes.CDLL(str(path))
    except OSError:  # of the folder; an error of the compiler's comes again
        return _unkept(compiler)


def _unkept(compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="wsn-native-") as folder:
        path = Path(folder) / "kernels.so"
        compile_into(path, compiler)
        return ctypes.CDLL(str(path))  # which stays when its file goes


def key(compiler: str) -> str:
    """A name for what the compiler makes here. Raises OSError and TimeoutExpired for one that does not run."""
    asked = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=SECONDS)
    told = [jaxlib.__version__, *compiled.cpu(), compiler, asked.stdout, *FLAGS]
    told += [file.read_text() for file in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def compile_into(path: Path, compiler: str) -> None:
    """Compile the kernels to `path`, where they appear whole. Raises CalledProcessError, TimeoutExpired, OSError."""
    with stored.staged(path) as place:
        command = [compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), str(SOURCE), "-o", str(place)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """In the block no other process has the lock; without one where the file system has none."""
    with open(path, "w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
