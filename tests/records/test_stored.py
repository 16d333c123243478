"""Files are written whole or not at all, and what killed processes left goes."""

import errno
import os
import time
from pathlib import Path

import pytest

from wsn.errors import UserError
from wsn.stored import cannot_write, replacing, staged


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_block_that_fails_writes_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "new" / "a.txt") as file:
        file.write("half")
        raise RuntimeError
    assert files(tmp_path / "new") == set()


def test_files_have_their_bytes_and_the_mode_of_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "a.bin", "wb") as file:
            file.write(b"\r\n")
    finally:
        os.umask(mask)
    assert (tmp_path / "a.bin").read_bytes() == b"\r\n"
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_of_two_processes_that_write_a_folder_the_first_wins(tmp_path):
    with staged(tmp_path / "entry") as slower:
        with staged(tmp_path / "entry") as faster:
            faster.mkdir()
            (faster / "a").write_text("first")
        slower.mkdir()
        (slower / "a").write_text("second")
    assert files(tmp_path) == {"entry"} and (tmp_path / "entry" / "a").read_text() == "first"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "table.csv"
    with replacing(path) as file:
        file.write("old")
    monkeypatch.setattr(os, call, full)
    with (
        pytest.raises(UserError, match=rf"^`workdir`: [^\n]*{path}[^\n]*No space left[^\n]*$"),
        replacing(path) as file,
    ):
        file.write("new")
    assert files(tmp_path) == {"table.csv"} and path.read_text() == "old"


@pytest.mark.parametrize(
    ("error", "parts", "absent"),
    [
        (
            ValueError("{json: 1}" * 200 + " No space left on device [errno=28]"),
            ("No space left", "free space"),
            "json",
        ),
        (OSError(errno.EACCES, "Permission denied"), ("Permission denied", "choose another"), "free space"),
        (RuntimeError("x" * 1000 + "\n" + "y" * 1000), ("RuntimeError", "..."), "y"),
    ],
    ids=["another library's", "locked", "unknown"],
)
def test_the_error_of_a_write_has_its_cause_alone(tmp_path, error, parts, absent):
    message = str(cannot_write(tmp_path, error))
    assert message.startswith("`workdir`: cannot write ") and "\n" not in message and len(message) < 500
    assert all(part in message for part in parts) and absent not in message.replace(str(tmp_path), "")


def test_what_a_killed_process_was_writing_goes_with_the_next_write(tmp_path):
    """But not what another process is writing now, and not the files of others."""
    old, older, fresh, other = (
        tmp_path / name for name in (".a.csv.abcdefgh", ".a.csv.01234567", ".a.csv.hgfedcba", ".a.csv.mine")
    )
    older.mkdir()
    (older / "a.csv").write_text("half")
    for path in (old, fresh, other):
        path.write_text("half")
    for path in (old, older, other):
        os.utime(path, (time.time() - 1e4,) * 2)
    with replacing(tmp_path / "a.csv") as file:
        file.write("whole")
    assert files(tmp_path) == {"a.csv", fresh.name, other.name}
