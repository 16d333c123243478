"""The compilation cache: silent, bounded, for this kind of machine, and never an error."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsn import folders
from wsn.devices import compiled, hosts

# One program, and whether it came from the cache; a warning is an error.
PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from wsn.devices import compiled
compiled.LEAST_SECONDS = 0.0
found = []
jax.monitoring.register_event_listener(lambda name, **_: found.append(name) if name.endswith("cache_hits") else None)
compiled.keep(Path(sys.argv[1]))
total = jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.arange(900.0).reshape(30, 30))
print(float(total).hex(), len(found) > 0, jax.config.jax_compilation_cache_dir)
"""


def started(folder: Path, **environment: str) -> list[str]:
    """The words that PROGRAM prints in another process, which must print nothing else."""
    inherited = {name: value for name, value in os.environ.items() if "CACHE" not in name}
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder)]
    ended = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    return ended.stdout.split()


def test_a_second_start_loads_programs_and_replaces_corrupt_ones(tmp_path):
    total, found, where = started(tmp_path)
    assert found == "False" and Path(where).parent == tmp_path
    assert started(tmp_path) == [total, "True", where]
    entries = list(tmp_path.glob("*/*-cache"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-5])
    assert started(tmp_path) == [total, "False", where]
    assert started(tmp_path) == [total, "True", where]


def test_settings_of_the_user_stay(tmp_path):
    own = tmp_path / "own"
    assert started(tmp_path / "ours", JAX_COMPILATION_CACHE_DIR=str(own))[2] == str(own)
    assert started(tmp_path / "ours", JAX_ENABLE_COMPILATION_CACHE="false")[2] == "None"
    assert not (tmp_path / "ours").exists()


def test_without_a_writable_folder_there_is_no_cache(tmp_path):
    (tmp_path / "file").touch()
    assert started(tmp_path / "file" / "compiled")[1:] == ["False", "None"]


@pytest.fixture
def unset(monkeypatch):
    """No cache set by the user; settings are restored."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


NAMES = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


def test_there_is_none_that_another_process_cannot_see_or_for_an_old_jax(unset, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(hosts, "any_process", lambda flag: True)
        compiled.keep(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(jax, "__version_info__", (0, 10, 1))
        compiled.keep(tmp_path)
    assert jax.config.jax_compilation_cache_dir is None
    compiled.keep(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / compiled.machine())
    assert jax.config.jax_persistent_cache_min_compile_time_secs == compiled.LEAST_SECONDS


def test_a_read_only_folder_is_left_alone(unset, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "touch", refuse)
    compiled.keep(tmp_path)
    assert jax.config.jax_compilation_cache_dir is None


def test_machines_with_different_cores_or_features_share_no_program(monkeypatch):
    names = {compiled.machine()}
    monkeypatch.setattr(compiled, "usable_cores", lambda: 999)
    names.add(compiled.machine())
    for flags in ("sse2", "sse2 avx512f"):
        text = f"processor\t: 0\nflags\t: {flags}\ncpu MHz\t: {len(names)}\n\nprocessor\t: 1\n"
        monkeypatch.setattr(Path, "read_text", lambda path, text=text, **_: text)
        names.add(compiled.machine())
    assert len(names) == 4
    monkeypatch.setattr(Path, "read_text", lambda path, **_: text.replace("cpu MHz\t: 3", "cpu MHz\t: 1"))
    assert compiled.machine() in names, "the clock changes all the time"


@given(st.binary(max_size=300), st.integers(0, 300))
def test_a_truncated_stream_is_not_whole(content, length):
    entry = zlib.compress(content)
    assert compiled.is_whole(entry)
    assert compiled.is_whole(entry[:length]) == (length >= len(entry))
    assert compiled.is_whole(b"\x28\xb5\x2f\xfd"), "another format"


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_the_newest_entries_stay_within_the_limit(tmp_path_factory, sizes, most):
    folder = tmp_path_factory.mktemp("compiled")
    for age, size in enumerate(sizes):
        path = folder / f"machine{age % 2}" / f"{age}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (1e9 - age, 1e9 - age))
    compiled.drop_oldest(folder, most)
    left = sorted(int(path.stem.removesuffix("-cache")) for path in folder.rglob("*-cache"))
    assert left == list(range(len(left))), "the newest"
    assert sum(sizes[: len(left)]) <= most
    assert len(left) == len(sizes) or sum(sizes[: len(left) + 1]) > most


def test_an_entry_is_checked_once(tmp_path):
    old, new = tmp_path / "old-cache", tmp_path / "new-cache"
    old.write_bytes(zlib.compress(b"a"))
    compiled.drop_damaged(tmp_path)
    old.write_bytes(b"")
    os.utime(old, (1e9, 1e9))
    new.write_bytes(b"")
    compiled.drop_damaged(tmp_path)
    assert old.exists() and not new.exists()


def test_it_is_beside_the_cached_data(monkeypatch, tmp_path):
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path))
    assert folders.cache() == tmp_path and folders.cache("x") == Path("x")
    monkeypatch.delenv("WSN_CACHE_DIR")
    assert folders.cache() == Path.home() / ".cache" / "wsn"
