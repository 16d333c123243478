"""Data: splits that never meet, statistics that normalise exactly, a cache that heals, errors in one line."""

import dataclasses
import hashlib
import http.server
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn import data, folders
from wsn.data import cache, prepared
from wsn.errors import UserError

needs_tfds = pytest.mark.skipif("TFDS_DATA_DIR" not in os.environ, reason="real data: set TFDS_DATA_DIR")


def fake_dataset(size: int = 40, shape: tuple[int, int, int] = (5, 4, 3), seed: int = 0) -> data.Dataset:
    random = np.random.default_rng(seed)

    def images(count):
        return random.integers(0, 256, (count, *shape), dtype=np.uint8)

    train_images = images(size)
    train_images[:, 0, 0, :] = 7  # a pixel that never changes
    # Labels number the examples, so that a test can follow them.
    return data.Dataset(
        train_images,
        np.arange(size, dtype=np.int32),
        images(9),
        np.arange(9, dtype=np.int32) % size,
        classes=size,
    )


@dataclasses.dataclass
class FakeSource:
    """Counts how often it is decoded."""

    decoded: int = 0

    def locate(self, data_dir):
        return "fake-1"

    def decode(self, data_dir):
        self.decoded += 1
        return fake_dataset()


@pytest.fixture
def source(monkeypatch):
    source = FakeSource()
    monkeypatch.setitem(data.DATASETS, "fake", source)
    return source


def assert_equal(left: data.Dataset, right: data.Dataset) -> None:
    for name in ("train_images", "train_labels", "test_images", "test_labels", "classes", "digest"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# Splits.


@settings(deadline=None, max_examples=50)
@given(train=st.integers(1, 40), validation=st.integers(0, 39), seed=st.integers(0, 2**63))
def test_train_and_validation_never_meet(train, validation, seed):
    dataset = fake_dataset()
    options = dict(validation_samples=validation, data_seed=seed, normalization="scalar")
    if train + validation > 40:
        with pytest.raises(UserError, match="^`train_samples="):
            data.split(dataset, train_samples=train, **options)
        return
    splits = data.split(dataset, train_samples=train, **options)
    assert len(splits.train_labels) == train and len(splits.validation_labels) == validation
    assert len({*splits.train_labels, *splits.validation_labels}) == train + validation
    np.testing.assert_array_equal(splits.train_images, dataset.train_images[splits.train_labels])
    np.testing.assert_array_equal(splits.validation_images, dataset.train_images[splits.validation_labels])
    rest = data.split(dataset, train_samples=None, **options)
    assert len(rest.train_labels) == 40 - validation
    np.testing.assert_array_equal(rest.train_labels[:train], splits.train_labels)


@settings(deadline=None, max_examples=20)
@given(train=st.integers(1, 20), validation=st.integers(0, 20), seed=st.integers(0, 1000))
def test_holding_out_changes_neither_subset_nor_statistics(train, validation, seed):
    options = dict(train_samples=train, data_seed=seed, normalization="channel")
    without = data.split(fake_dataset(), validation_samples=0, **options)
    held_out = data.split(fake_dataset(), validation_samples=validation, **options)
    np.testing.assert_array_equal(without.train_images, held_out.train_images)
    np.testing.assert_array_equal(without.mean, held_out.mean)
    np.testing.assert_array_equal(without.std, held_out.std)


@given(size=st.integers(0, 300), seed=st.integers(0, 2**64))
@settings(deadline=None, max_examples=50)
def test_permutation(size, seed):
    order = data.permutation(size, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))
    np.testing.assert_array_equal(order, data.permutation(size, seed))
    if size > 20:
        assert (order != data.permutation(size, seed + 1)).any()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("train_samples", {"train_samples": 0}),
        ("train_samples", {"train_samples": 41}),
        ("validation_samples", {"validation_samples": 40, "train_samples": None}),
        ("validation_samples", {"validation_samples": -1}),
        ("data_seed", {"data_seed": -1}),
        ("normalization", {"normalization": "batch"}),
    ],
)
def test_bad_split(name, changes):
    options = dict(train_samples=10, validation_samples=5, data_seed=0, normalization="scalar") | changes
    with pytest.raises(UserError, match=f"^`{name}=") as caught:
        data.split(fake_dataset(), **options)
    assert "\n" not in str(caught.value)


# Normalisation.


AXES = {"scalar": (0, 1, 2, 3), "channel": (0, 1, 2), "pixel": (0,)}  # what shares a mean and deviation


@pytest.mark.parametrize("normalization", AXES)
@settings(deadline=None, max_examples=5)
@given(size=st.integers(2, 1100), side=st.integers(1, 3), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_statistics_agree_with_numpy_and_normalise(normalization, size, side, channels, seed):
    images = fake_dataset(size, (side, side + 1, channels), seed).train_images
    axes = AXES[normalization]
    mean, deviation = data.statistics(images, normalization)
    assert mean.dtype == deviation.dtype == np.float32
    np.testing.assert_allclose(mean, images.mean(axes, keepdims=True)[0], rtol=1e-6)
    np.testing.assert_allclose(deviation, images.std(axes, keepdims=True)[0], rtol=1e-6)
    normalised = np.asarray(jax.jit(data.normalize)(images, mean, deviation), np.float64)
    assert normalised.shape == images.shape
    np.testing.assert_allclose(normalised.mean(axes), 0, atol=1e-5)
    varies = images.std(axes) > 0
    np.testing.assert_allclose(normalised.std(axes), np.where(varies, 1, 0), atol=1e-5)
    if normalization == "pixel":
        assert (normalised[:, 0, 0] == 0).all()


def test_deviation_of_constant_images_is_zero_at_any_size():
    images = np.full((70_000, 1, 1, 1), 253, np.uint8)
    for normalization in AXES:
        mean, deviation = data.statistics(images, normalization)
        assert mean.item() == 253 and deviation.item() == 0


def test_normalise_takes_any_batch_and_other_values_of_a_constant_pixel():
    images = fake_dataset().train_images
    mean, deviation = data.statistics(images, "pixel")
    test = np.full((2, 6, 5, 4, 3), 200, np.uint8)
    normalised = np.asarray(data.normalize(test, mean, deviation))
    assert normalised.shape == test.shape and normalised.dtype == np.float32
    assert (normalised[..., 0, 0, :] == 0).all() and np.isfinite(normalised).all()


# Names and missing data.


def test_digits(tmp_path):
    digits = data.load("digits", cache_dir=str(tmp_path))
    assert digits.train_images.shape == (1297, 8, 8, 1) and digits.test_images.shape == (500, 8, 8, 1)
    assert digits.train_images.dtype == np.uint8 and digits.train_images.max() == 16
    assert digits.train_labels.dtype == np.int32 and digits.classes == 10
    counts = np.bincount(digits.train_labels) + np.bincount(digits.test_labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="^`dataset=imagenot` is unknown: .*digits, mnist, cifar10") as caught:
        data.load("imagenot", cache_dir=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_data_without_a_network(tmp_path, monkeypatch):
    """One line, soon, and nothing left behind."""

    def no_network(url):
        raise OSError("no network\nin this test")

    monkeypatch.setattr(prepared, "require_network", no_network)
    begin = time.monotonic()
    with pytest.raises(UserError, match="^`dataset=mnist`: .*`data_dir=.*` .TFDS_DATA_DIR") as caught:
        data.load("mnist", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"))
    assert time.monotonic() - begin < 20
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


class SilentHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_network_check(monkeypatch):
    """A host that refuses is there; one that does not answer is not."""
    monkeypatch.setenv("no_proxy", "*")
    with http.server.HTTPServer(("127.0.0.1", 0), SilentHandler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/file"
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        prepared.require_network(url)  # answered by 501: no HEAD here
        answering.join()
    with pytest.raises(OSError):
        prepared.require_network(url)


def test_unreadable_source_names_the_folder(tmp_path):
    prepared = tmp_path / "mnist" / "3.0.1"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text('{"name": "mnist", trunc')
    with pytest.raises(UserError, match="^`data_dir=.*` .TFDS_DATA_DIR") as caught:
        data.load("mnist", data_dir=str(tmp_path), cache_dir=str(tmp_path / "cache"))
    assert "\n" not in str(caught.value)


# Cache.


def test_second_load_maps_and_decodes_nothing(tmp_path, source):
    for _ in range(3):
        dataset = data.load("fake", cache_dir=str(tmp_path))
        assert isinstance(dataset.train_images, np.memmap) and not dataset.train_images.flags.writeable
        assert_equal(dataset, fake_dataset())
    assert source.decoded == 1
    assert [path.name for path in tmp_path.iterdir()] == ["fake-1"]


def test_cache_dir_from_the_environment(tmp_path, source, monkeypatch):
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "from" / "environment"))
    data.load("fake")
    assert (tmp_path / "from" / "environment" / "fake-1").is_dir()


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def flip_a_bit(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 16
    path.write_bytes(raw)


DAMAGES = {
    "truncated": ("train_images.npy", truncate),
    "empty": ("test_labels.npy", empty),
    "flipped bit": ("train_images.npy", flip_a_bit),
    "flipped bit in a small file": ("test_labels.npy", flip_a_bit),
    "lost array": ("test_images.npy", os.unlink),
    "lost manifest": ("manifest.json", os.unlink),
    "truncated manifest": ("manifest.json", truncate),
    "garbage": ("manifest.json", lambda path: path.write_bytes(b"\xff\x00garbage")),
    "other JSON": ("manifest.json", lambda path: path.write_text("[1, 2]")),
    "another number of classes": (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace('"classes": 40', '"classes": 41')),
    ),
    "manifest of an older version": (
        "manifest.json",
        lambda path: path.write_text(path.read_text().replace('"digest"', '"digits"')),
    ),
    "half a manifest": ("manifest.json", lambda path: path.write_text('{"classes": 40, "files": {}}')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_rebuilt(damage, tmp_path, source, caplog):
    file, harm = DAMAGES[damage]
    data.load("fake", cache_dir=str(tmp_path))
    harm(tmp_path / "fake-1" / file)
    assert_equal(data.load("fake", cache_dir=str(tmp_path)), fake_dataset())
    (warning,) = warnings_in(caplog)
    assert "damaged" in warning and "\n" not in warning
    assert_equal(data.load("fake", cache_dir=str(tmp_path)), fake_dataset())
    assert source.decoded == 2


def test_a_file_in_the_place_of_a_cache_goes(tmp_path, source, caplog):
    (tmp_path / "fake-1").write_bytes(b"garbage")
    assert_equal(data.load("fake", cache_dir=str(tmp_path)), fake_dataset())
    assert "damaged" in warnings_in(caplog)[0] and [path.name for path in tmp_path.iterdir()] == ["fake-1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads what its mode forbids")
def test_a_cache_that_cannot_be_read_is_rebuilt_and_goes(tmp_path, source, caplog):
    data.load("fake", cache_dir=str(tmp_path))
    (tmp_path / "fake-1").chmod(0)
    assert_equal(data.load("fake", cache_dir=str(tmp_path)), fake_dataset())
    assert "damaged" in warnings_in(caplog)[0] and [path.name for path in tmp_path.iterdir()] == ["fake-1"]


def test_the_cache_of_another_set_is_rebuilt(tmp_path, source, caplog):
    """Which `cp` puts in its place: whole, and of other data."""
    data.load("fake", cache_dir=str(tmp_path))
    (tmp_path / "fake-1").rename(tmp_path / "other")
    other = fake_dataset(seed=1)
    assert_equal(cache.cached(data.Dataset, tmp_path / "other", lambda: other), other)
    assert "it is fake-1" in warnings_in(caplog)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_a_killed_process_was_writing_goes_when_it_is_old(tmp_path, source):
    old, new, other = (
        tmp_path / name for name in (".fake-1.abcdefgh", ".fake-1.hgfedcba", ".fake-10.abcdefgh")
    )
    for folder in (old, new, other):
        folder.mkdir()
        (folder / "train_images.npy").write_bytes(b"half")
    for folder in (old, other):
        os.utime(folder, (0, 0))
    data.load("fake", cache_dir=str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"fake-1", new.name, other.name}


def test_cache_that_cannot_be_written_costs_a_warning(tmp_path, source, caplog):
    (tmp_path / "file").write_text("not a folder")
    dataset = data.load("fake", cache_dir=str(tmp_path / "file" / "cache"))
    assert_equal(dataset, fake_dataset())
    (warning,) = warnings_in(caplog)
    assert "cannot cache" in warning and "\n" not in warning


FILL = """
import sys, time
from pathlib import Path
import numpy as np
from wsn import data

folder, me = Path(sys.argv[1]), sys.argv[2]
decoded = data.DATASETS["digits"].decode(None)

class Slow:
    def locate(self, data_dir):
        return "slow-1"

    def decode(self, data_dir):
        (folder / me).touch()
        while len(list(folder.glob("process-*"))) < 2:  # both find an empty cache
            time.sleep(0.001)
        return decoded

data.DATASETS["slow"] = Slow()
loaded = data.load("slow", cache_dir=str(folder / "cache"))
assert isinstance(loaded.train_images, np.memmap)
assert (loaded.train_images == decoded.train_images).all()
assert (loaded.test_labels == decoded.test_labels).all()
"""


def test_two_processes_fill_the_cache_at_once(tmp_path):
    command = [sys.executable, "-W", "error", "-c", FILL, str(tmp_path)]
    processes = [subprocess.Popen([*command, f"process-{number}"]) for number in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["slow-1"]


# TensorFlow stays out; real data where there are some.


@pytest.fixture(scope="session")
def real_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def assert_loads_without_tensorflow(name: str, tmp_path, cache: str) -> None:
    code = "import sys\nfrom wsn import data\n"
    code += "assert 'tensorflow_datasets' not in sys.modules and 'sklearn' not in sys.modules\n"
    code += f"data.load({name!r}, cache_dir={cache!r})\n"
    tiny.run_without_tensorflow(code, tmp_path)


def test_digits_load_without_tensorflow(tmp_path):
    assert_loads_without_tensorflow("digits", tmp_path, str(tmp_path / "cache"))


@needs_tfds
def test_mnist_loads_without_tensorflow(tmp_path, real_cache):
    assert_loads_without_tensorflow("mnist", tmp_path, real_cache)


def fingerprint(images, labels) -> str:
    """SHA-256 over one byte of label and the pixel bytes of each example."""
    rows = np.concatenate([labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)], axis=1)
    return hashlib.sha256(rows.tobytes()).hexdigest()


@needs_tfds
def test_mnist(real_cache):
    mnist = data.load("mnist", cache_dir=real_cache)
    assert fingerprint(mnist.train_images, mnist.train_labels) == (
        "d1aa18a5b013faeb13aaa88296612ae9e090c5c0c8d618586ef8aa8e0ad348d0"
    )
    assert fingerprint(mnist.test_images, mnist.test_labels) == (
        "8a0c4bedc54537008f7b6a60a19b33f9b26857caddee6410482190bca90a483d"
    )
    # The constants that PyTorch's MNIST examples, and the paper's code, normalise by.
    mean, deviation = data.statistics(mnist.train_images, "scalar")
    assert round(mean.item() / 255, 4) == 0.1307 and round(deviation.item() / 255, 4) == 0.3081
    begin = time.perf_counter()
    again = data.load("mnist", cache_dir=real_cache)
    assert time.perf_counter() - begin < 1  # 15 ms on a quiet machine, most of it the checksum
    assert isinstance(again.train_images, np.memmap)


@needs_tfds
def test_mnist_pixel_normalisation(real_cache):
    mnist = data.load("mnist", cache_dir=real_cache)
    splits = data.split(
        mnist, train_samples=2048, validation_samples=2048, data_seed=0, normalization="pixel"
    )
    assert (splits.std == 0).sum() == 67  # the pixels that no training image uses
    normalised = np.asarray(data.normalize(mnist.train_images[:10_000], splits.mean, splits.std))
    assert np.isfinite(normalised).all() and (normalised[:, splits.std == 0] == 0).all()


@needs_tfds
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar(name, classes, real_cache):
    if not os.path.isdir(os.path.join(os.environ["TFDS_DATA_DIR"], name)):
        pytest.skip(f"TFDS_DATA_DIR has no {name}")
    cifar = data.load(name, cache_dir=real_cache)
    assert cifar.train_images.shape == (50_000, 32, 32, 3) and cifar.test_images.shape == (10_000, 32, 32, 3)
    assert cifar.classes == classes
    assert np.bincount(cifar.train_labels).tolist() == [50_000 // classes] * classes
    assert np.bincount(cifar.test_labels).tolist() == [10_000 // classes] * classes


def test_a_cache_that_cannot_be_looked_at_is_gone_without(source, caplog):
    """As in the home of somebody else: every question of the system about it is an error."""
    for _ in range(2):
        assert_equal(data.load("fake", cache_dir="x" * 300), fake_dataset())
    assert source.decoded == 2 and "continuing without" in warnings_in(caplog)[0]


def test_without_a_home_the_folder_of_the_cache_is_asked_for(monkeypatch):
    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(UserError, match="^`WSN_CACHE_DIR=[^`]*`: there is no such home"):
        folders.cache()
