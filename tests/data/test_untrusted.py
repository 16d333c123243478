"""What others give is refused before it takes memory, runs code or leads out of its folder."""

import io
import json
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from wsn import data, machine, stored
from wsn.data import images, prepared, untrusted
from wsn.data.crops import center_box, decode
from wsn.data.language import corpora
from wsn.data.speech import recordings
from wsn.errors import UserError

FEATURE = untrusted.FEATURES + "text_feature.Text"


# Archives of arrays.


def npy(shape: tuple[int, ...], kind: str = "<f4", content: bytes = b"") -> bytes:
    """An array's file whose header claims that shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def archive(path, **members: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def test_arrays_come_back_whatever_their_kind(tmp_path):
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.array([True])}
    np.savez_compressed(tmp_path / "some.npz", ids=np.array([None], object), **arrays)
    found = untrusted.arrays_of_npz(tmp_path / "some.npz", leave_out=("ids",))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy((10**15,)), "claims more than it has"),
        (npy((2**62, 2**62)), "cannot reshape"),
        (npy((0, 10**15), content=b"more"), "has more than it claims"),
        (npy((3,), "|O", b"pickle"), "allow_pickle=False"),
        (b"\x93NUMPY\x09\x00", "not \\(9, 0\\)"),
        (b"nonsense", "magic"),
    ],
    ids=["large", "larger than any", "more than it claims", "pickle", "another format", "no array"],
)
def test_arrays_that_claim_what_they_have_not_are_refused(tmp_path, member, said):
    path = archive(tmp_path / "some.npz", cepstra=member)
    with pytest.raises(ValueError, match=said):
        untrusted.arrays_of_npz(path)
    with pytest.raises(UserError, match="^`data_dir=.*`: cannot be read as .npz[^\n]*$"):
        list(recordings.Packed().utterances(str(path)))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """A thousandth of its size on disk; the archive says what it unpacks to, and no more than that is."""
    path = archive(tmp_path / "some.npz", cepstra=npy((2**18,), content=bytes(2**20)))
    assert path.stat().st_size < 2**12
    monkeypatch.setattr(machine, "memory_limit", lambda: 2.0**20)
    with pytest.raises(ValueError, match="claims 0.000977 GiB, and there are 0.000977 GiB"):
        untrusted.arrays_of_npz(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": np.array([9.0, 3.0])},
        {"lengths": np.array([-3, 15])},
        {"lengths": np.array([2**62, 2**62])},
        {"lengths": np.array([[9, 3]])},
        {"texts": np.array([b"A", b"B"])},
        {"train": np.array(["yes", "no"])},
        {"cepstra": np.array([["a"] * 4] * 12)},
        {"cepstra": np.zeros((12, 4), [("x", "f4")])},
    ],
    ids=lambda changes: "".join(changes),
)
def test_packed_arrays_of_another_kind_are_one_line(tmp_path, changes):
    arrays = {"cepstra": np.ones((12, 4)), "lengths": np.array([9, 3]), "texts": np.array(["A", "B"])}
    np.savez(tmp_path / "some.npz", **arrays | {"train": np.array([True, False])} | changes)
    with pytest.raises(UserError, match="^`data_dir=[^\n]*$"):
        list(recordings.Packed().utterances(str(tmp_path)))


# Records.


def records(path, sizes=(10, 70_000, 5, 200_000, 65_000), options="group_size:1,uncompressed"):
    writer = ArrayRecordWriter(os.fspath(path), options)
    for size in sizes:
        writer.write(bytes(size))
    writer.close()
    return path


@pytest.mark.parametrize("options", ["group_size:1,uncompressed", "group_size:2,zstd", "group_size:1,brotli"])
def test_the_chunks_of_a_file_claim_what_was_written(tmp_path, options):
    """Whether or not they lie across blocks of 64 KiB."""
    path = records(tmp_path / "some", options=options)
    untrusted.check_records(path)
    held = list(untrusted._chunks(path.read_bytes(), path.stat().st_size))
    assert sum(decoded for _, _, decoded in held) >= 335_015, held
    assert all(stored <= path.stat().st_size for stored, _, _ in held)


@pytest.mark.parametrize(("place", "claim"), [(72, 2**60), (96, 2**60)], ids=["stored", "decoded"])
def test_a_record_of_2_to_60_bytes_is_refused(tmp_path, place, claim):
    """The first chunk after the signature, at byte 64: hash, bytes stored, hash, records, bytes decoded."""
    path = records(tmp_path / "x-train.array_record-00000-of-00001")
    content = bytearray(path.read_bytes())
    content[place : place + 8] = struct.pack("<Q", claim)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a chunk that claims {claim} bytes"):
        untrusted.check_records(path)


def test_records_that_unpack_to_more_than_the_memory_are_refused(tmp_path, monkeypatch):
    path = records(tmp_path / "some", sizes=[2**20] * 9, options="group_size:1,zstd")
    assert path.stat().st_size < 2**18
    monkeypatch.setattr(untrusted, "LARGE", 2**20)
    untrusted.check_records(path)
    monkeypatch.setattr(machine, "memory_limit", lambda: 2.0**24)
    with pytest.raises(ValueError, match="claims 0.008[0-9]* GiB"):
        untrusted.check_records(path)


# Copies of tensorflow-datasets.


def copy(home, features=FEATURE, template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", **split):
    home.mkdir(parents=True)
    splits = [{"name": "train", "filepathTemplate": template} | split]
    (home / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    (home / "features.json").write_text(
        json.dumps({"pythonClassName": features, "inner": [{"type": FEATURE}]})
    )
    return home


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"features": "os.system"}, "names the class os.system, which is no feature"),
        ({"template": "../../{DATASET}"}, "names files outside of the folder"),
        ({"template": "/etc/passwd"}, "names files outside of the folder"),
        ({"name": "../train"}, "names files outside of the folder"),
    ],
)
def test_a_copy_names_its_own_files_and_classes_of_features(tmp_path, changes, said):
    untrusted.check_copy(copy(tmp_path / "good"))
    with pytest.raises(ValueError, match=said):
        untrusted.check_copy(copy(tmp_path / "bad", **changes))


@pytest.mark.parametrize("damage", ["a FIFO", "a link to one", "too large", "nested"])
def test_a_description_that_cannot_be_read_is_one_line(tmp_path, monkeypatch, damage):
    path = copy(tmp_path / "mnist" / "3.0.1") / "dataset_info.json"
    path.unlink()
    if damage in ("a FIFO", "a link to one"):
        place = path if damage == "a FIFO" else tmp_path / "elsewhere"
        os.mkfifo(place)
        if place != path:
            path.symlink_to(place)
    elif damage == "nested":
        path.write_text("[" * 100_000)
    else:
        monkeypatch.setattr(stored, "LARGE", 10)
        monkeypatch.setattr(machine, "memory_limit", lambda: 100.0)
        path.write_text(json.dumps({"splits": []}))
    with pytest.raises(UserError, match="^`data_dir=[^\n]*cannot be read as array_record[^\n]*$"):
        data.load("mnist", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))


def test_a_fifo_in_the_place_of_records_is_not_opened(tmp_path):
    home = copy(tmp_path / "some" / "1.0.0")
    os.mkfifo(home / "some-train.array_record-00000-of-00001")
    with pytest.raises(OSError, match="not a regular file"):
        prepared.check("some:1.0.0", str(tmp_path))


# Images and texts.


def png(width: int, height: int, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "png")
    return file.getvalue()


def test_an_image_of_another_size_is_not_decoded():
    assert images.decoded(png(28, 28), (28, 28, 1)).shape == (28, 28, 1)
    assert images.decoded(png(28, 28), (28, 28, 3)).shape == (28, 28, 3)
    with pytest.raises(ValueError, match="an image of 5000×28 pixels among those of 28×28"):
        images.decoded(png(5000, 28), (28, 28, 1))


def test_an_image_that_claims_too_many_pixels_is_not_decoded():
    encoded = bytearray(png(8, 8))
    encoded[16:24] = struct.pack(">2I", 2**14, 2**14)  # width and height of its header, and their checksum
    encoded[29:33] = struct.pack(">I", zlib.crc32(encoded[12:29]))
    with pytest.raises((ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError)):
        decode(bytes(encoded), center_box)


@pytest.mark.parametrize("what", ["a FIFO", "a device", "too large"])
def test_texts_are_files_that_there_is_memory_for(tmp_path, monkeypatch, what):
    for name in ("train.txt", "valid.txt", "test.txt"):
        (tmp_path / name).write_text("some words\n")
    path = tmp_path / "valid.txt"
    if what == "too large":
        monkeypatch.setattr(machine, "memory_limit", lambda: 80.0)
    else:
        path.unlink()
        os.mkfifo(path) if what == "a FIFO" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="^`data_dir`: [^\n]*(not a regular file|claims)[^\n]*$"):
        corpora.load("text", "characters", 10, str(tmp_path), str(tmp_path / "cache"))
