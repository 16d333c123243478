"""A lock has one holder, and ends with its block or its process."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from wsn.errors import UserError
from wsn.records.locks import try_lock


def test_a_lock_is_exclusive_and_ends_with_its_block(tmp_path):
    path = tmp_path / "runs" / "a.lock"
    with try_lock(path) as first, try_lock(path) as second, try_lock(tmp_path / "b.lock") as other:
        assert (first, second, other) == (True, False, True)
    with contextlib.suppress(RuntimeError), try_lock(path) as again:
        assert again
        raise RuntimeError
    with try_lock(path) as afterwards:
        assert afterwards


HOLD = """
import sys, time
from pathlib import Path
from wsn.records.locks import try_lock
with try_lock(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    path = tmp_path / "a.lock"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True, env=environment
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        with try_lock(path) as ours:
            assert not ours
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with try_lock(path) as ours:
            assert ours


def test_a_file_system_without_locks_and_a_fifo_are_one_line(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo.lock")
    with pytest.raises(UserError, match="^`workdir`: cannot write [^\n]*$"), try_lock(tmp_path / "fifo.lock"):
        pass

    def no_flock(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with (
        pytest.raises(UserError, match="^`workdir`: [^\n]* without locks [^\n]*another folder$"),
        try_lock(tmp_path / "a.lock"),
    ):
        pass
