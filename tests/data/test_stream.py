"""Streamed images: every example once, the same pixels for any number of hosts and threads, torchvision's crops."""

import dataclasses
import io
import itertools
import os
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from tiny import run_without_tensorflow

from experiments.benchmarks import of_input
from experiments.benchmarks.of_input import photo, prepare
from wsn.data import crops, large_images, stream
from wsn.errors import UserError

# (width, height): wide, high, exactly 256, smaller than the crop, one pixel high and wide.
SIZES = [
    *((500, 375), (375, 500), (256, 256), (256, 300), (300, 256)),
    *((40, 30), (3, 7), (90, 1), (1, 90), (1, 1)),
]
MODES = ["RGB", "L", "CMYK", "RGBA", "P", "1", "LA"]
TRAIN, TEST = 37, 11


def encode(image: Image.Image, **options) -> bytes:
    """JPEG where it has the mode, else PNG, as ImageNet's `n02105855_2933.JPEG` is one."""
    file = io.BytesIO()
    image.save(file, "JPEG" if image.mode in ("RGB", "L", "CMYK") else "PNG", **options)
    return file.getvalue()


def picture(index: int) -> Image.Image:
    size = SIZES[index % len(SIZES)]
    return Image.fromarray(photo(index, 100, 75)).resize(size).convert(MODES[index % len(MODES)])


def examples(count: int, first: int) -> list[dict]:
    """Labels number the examples, so that a test can follow them."""
    return [
        {"image": encode(picture(first + i)), "label": i, "file_name": f"{first + i}.JPEG"}
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    splits = {"train": examples(TRAIN, 0), "validation": examples(TEST, 1000)}
    prepare(folder, "tiny:1.0.0", TRAIN, splits, shards=3)
    return folder


SET = large_images.Images("tiny:1.0.0", classes=TRAIN)


@pytest.fixture(scope="module")
def tiny(folder):
    return SET.open(str(folder), threads=2)


def joined(batches) -> list[np.ndarray]:
    """Images, labels and weights of batches, one after the other."""
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def assert_equal(left, right) -> None:
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def together(parts) -> list[tuple]:
    """What the hosts hold of each batch, without padding, as the batches of one host."""
    return [
        tuple(
            np.concatenate([array[part.weight > 0] for part, array in zip(step, field, strict=True)])
            for field in zip(*step, strict=True)
        )
        for step in zip(*parts, strict=True)
    ]


# Order.


@settings(deadline=None)
@given(examples=st.integers(1, 60), batch_size=st.integers(1, 20), hosts=st.integers(1, 5))
def test_hosts_share_every_batch(examples, batch_size, hosts):
    alone = stream.positions_of_host(examples, batch_size, 0, 1)
    np.testing.assert_array_equal(alone[alone >= 0], np.arange(examples))
    assert alone.shape == (-(-examples // batch_size), batch_size)
    parts = [stream.positions_of_host(examples, batch_size, host, hosts) for host in range(hosts)]
    assert {part.shape for part in parts} == {(len(alone), -(-batch_size // hosts))}
    for row, *others in zip(alone, *parts, strict=True):
        held = np.concatenate(others)
        np.testing.assert_array_equal(held[held >= 0], row[row >= 0])
    for part in parts:
        assert (np.diff(part < 0, axis=1) >= 0).all()  # padding comes last


@settings(deadline=None)
@given(key=st.integers(0, 2**128 - 1), first=st.integers(0, 10**7), count=st.integers(1, 20))
def test_random_numbers_belong_to_a_position(key, first, count):
    whole = crops.uniforms(key, first, count)
    assert (whole >= 0).all() and (whole < 1).all()
    assert len(np.unique(whole)) == whole.size
    np.testing.assert_array_equal(crops.uniforms(key, first + count - 1, 1)[0], whole[-1])


# Crops.


def test_resized_and_central_box_are_torchvisions():
    assert crops.resized(500, 375) == (341, 256)
    assert crops.resized(375, 500) == (256, 341)
    assert crops.resized(1, 90) == (256, 23040)
    assert crops.center_box(256, 256) == (16, 16, 224, 224)
    assert crops.center_box(341, 256) == (58, 16, 224, 224)


@settings(deadline=None, max_examples=300)
@given(long=st.integers(256, 20_000), wide=st.booleans(), position=st.integers(0, 10**6))
def test_a_random_box_lies_in_the_image(long, wide, position):
    width, height = (long, 256) if wide else (256, long)
    numbers = crops.uniforms(0, position, 1)[0, : crops.ATTEMPTS]
    box = crops.random_box(width, height, numbers)
    assert min(box.left, box.top) >= 0 and min(box.width, box.height) > 0
    assert box.left + box.width <= width and box.top + box.height <= height
    # The sides are rounded to a pixel, of at least 99 here.
    assert 3 / 4 * 0.99 < box.width / box.height < 4 / 3 * 1.01
    if max(width, height) <= 341:
        assert box.width * box.height >= 0.2 * 0.99 * width * height


def test_where_no_attempt_fits_the_largest_central_box_is_taken():
    numbers = np.full((crops.ATTEMPTS, 4), 0.9)
    assert crops.random_box(20_000, 256, numbers) == ((20_000 - 341) // 2, 0, 341, 256)
    assert crops.random_box(256, 20_000, numbers) == (0, (20_000 - 341) // 2, 256, 341)


def test_random_boxes_have_the_laws_of_random_resized_crop():
    """In a square, no box below 3/4 of the area is ever refused: there area and log aspect stay uniform."""
    side, count = 4096, 4000
    numbers = crops.uniforms(1, 0, count)[:, : crops.ATTEMPTS]
    left, top, width, height = np.array([crops.random_box(side, side, u) for u in numbers]).T
    area = width * height / side**2
    assert 0.199 < area.min() < 0.21 and 0.95 < area.max() <= 1
    small = area < 0.7
    laws = {
        "area": ((area[small] - 0.2) / 0.5),
        "log aspect": np.log(width / height)[small] / np.log(16 / 9) + 0.5,
        "column": ((left + 0.5) / (side - width + 1))[small],
        "row": ((top + 0.5) / (side - height + 1))[small],
    }
    for name, values in laws.items():
        assert stats.kstest(values, "uniform").pvalue > 1e-3, name
    for one, other in itertools.combinations(laws.values(), 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(small.sum())


def test_half_of_the_images_are_flipped(tiny, monkeypatch):
    flips = []

    def decode(encoded, place, flip):
        flips.append(flip)
        return np.zeros((224, 224, 3), np.uint8)

    monkeypatch.setattr(stream, "decode", decode)
    for epoch in range(30):
        list(tiny.train(epoch, TRAIN, seed=0))
    assert abs(np.mean(flips) - 0.5) < 4 * 0.5 / np.sqrt(len(flips))
    flips.clear()
    list(dataclasses.replace(tiny, flip=False).train(0, TRAIN, seed=0))
    assert len(flips) == TRAIN and not any(flips)


# Pixels.


def triangle(size: int, target: int) -> np.ndarray:
    """Bilinear interpolation along an axis, the triangle widened where the image shrinks: target × size."""
    scale = size / target
    distance = (np.arange(size) + 0.5)[None] - (np.arange(target)[:, None] + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(distance) / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    rows, columns = triangle(image.shape[0], height), triangle(image.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, image.astype(float), columns, optimize=True)


def reference(image: np.ndarray, box: crops.Box) -> np.ndarray:
    """All of the image resized to smallest side 256, then cut, then resized to 224: in float64, by the definition."""
    height, width = image.shape[:2]
    whole = resize(image, *crops.resized(width, height))
    cut = whole[box.top : box.top + box.height, box.left : box.left + box.width]
    return resize(cut, 224, 224)


@pytest.mark.parametrize("size", SIZES[:7])
def test_pixels_agree_with_an_independent_reference(size):
    pixels = photo(3, *size)
    encoded = encode(Image.fromarray(pixels).convert("RGBA"))  # PNG: no loss
    width, height = crops.resized(*size)
    small = crops.random_box(width, height, np.full((crops.ATTEMPTS, 4), 0.1))
    large = crops.random_box(width, height, np.full((crops.ATTEMPTS, 4), 0.9))
    assert small.width < 224 < large.height
    for box in (crops.center_box(width, height), small, large):
        got = crops.decode(encoded, lambda w, h, box=box: box).astype(float)
        # Pillow rounds to a byte after each of four passes.
        np.testing.assert_allclose(got, reference(pixels, box), atol=2.5)
        flipped = crops.decode(encoded, lambda w, h, box=box: box, flip=True)
        np.testing.assert_array_equal(flipped[:, ::-1], got)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode):
    image = Image.fromarray(photo(5, 300, 256)).convert(mode)
    encoded = encode(image)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))[16:240, 38:262]
    np.testing.assert_array_equal(crops.decode(encoded, crops.center_box), expected)


def test_orientation_tags_are_ignored():
    image = Image.fromarray(photo(6, 300, 256))
    tags = Image.Exif()
    tags[0x0112] = 6  # lies on its side
    turned = crops.decode(encode(image, exif=tags), crops.center_box)
    np.testing.assert_array_equal(turned, crops.decode(encode(image), crops.center_box))


# Batches.


def test_every_example_comes_once_an_epoch_in_an_order_of_its_own(tiny):
    orders = []
    for epoch, seed in [(0, 0), (1, 0), (0, 1)]:
        batches = list(tiny.train(epoch, 8, seed=seed))
        assert [batch.inputs.shape for batch in batches] == [(8, 224, 224, 3)] * 5
        images, labels, weight = joined(batches)
        assert images.dtype == np.uint8 and labels.dtype == np.int32 and weight.dtype == np.float32
        np.testing.assert_array_equal(weight, [1] * TRAIN + [0] * 3)
        assert (images[TRAIN:] == 0).all() and (labels[TRAIN:] == 0).all()
        np.testing.assert_array_equal(np.sort(labels[:TRAIN]), np.arange(TRAIN))
        orders.append(tuple(labels[:TRAIN]))
    assert len(set(orders)) == 3


def test_images_go_with_their_labels(tiny):
    images, labels, weight = joined(tiny.test(4))
    np.testing.assert_array_equal(labels[weight > 0], np.arange(TEST))
    for image, label in zip(images[:TEST], labels, strict=False):
        expected = crops.decode(encode(picture(1000 + int(label))), crops.center_box)
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("hosts", [2, 3])
def test_any_number_of_hosts_and_threads_sees_the_same(tiny, folder, hosts):
    other = SET.open(str(folder), threads=3)
    train = [list(other.train(2, 8, seed=5, host=host, hosts=hosts)) for host in range(hosts)]
    assert {len(part) for part in train} == {5}
    assert {batch.inputs.shape[0] for part in train for batch in part} == {-(-8 // hosts)}
    alone = together([list(tiny.train(2, 8, seed=5))])
    assert_equal(together(train), alone)
    test = [list(other.test(4, host=host, hosts=hosts)) for host in range(hosts)]
    assert_equal(together(test), together([list(tiny.test(4))]))


def test_any_step_can_be_the_first(tiny):
    whole = list(tiny.train(1, 8, seed=3))
    assert_equal(tiny.train(1, 8, seed=3, start=3), whole[3:])
    assert list(tiny.train(1, 8, seed=3, start=5)) == []


def test_another_epoch_cuts_an_image_otherwise(tiny):
    (first, labels, _), (second, others, _) = (joined(tiny.train(epoch, TRAIN, seed=0)) for epoch in (0, 1))
    first, second = first[np.argsort(labels)], second[np.argsort(others)]
    for i in range(TRAIN):
        if max(SIZES[i % len(SIZES)]) < 2 * min(SIZES[i % len(SIZES)]) > 2:  # has crops that differ
            assert (first[i] != second[i]).any()


class Counted(Sequence):
    """The examples of a split, counted as they are read."""

    def __init__(self, count: int):
        self.count, self.read, self.encoded = count, 0, encode(Image.new("RGB", (8, 8)))

    def __len__(self):
        return self.count

    def __getitem__(self, record):
        self.read += 1
        return {"image": self.encoded, "label": record}


def test_memory_is_bounded_and_a_stream_left_early_stops():
    source = Counted(10_000)
    records = stream.Records(source, "image", "label", 10_000, "train", "here")
    unit = np.ones((1, 1, 3), np.float32)
    opened = stream.Stream(10, records, records, unit, unit, threads=2)
    before = threading.active_count()
    batches = opened.train(0, 16, seed=0)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before
    assert 16 <= source.read <= 16 + 16 + 2 * 2 * 8


# Bad input.


def refusal(call) -> str:
    with pytest.raises(UserError, match="^`data_dir=") as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_set_says_how_to_prepare_it(tmp_path):
    message = refusal(lambda: large_images.STREAMS["imagenet2012"].open(str(tmp_path)))
    assert "imagenet2012:5.1.0" in message and "file_format='array_record'" in message


def test_a_missing_split_or_another_format_is_refused(folder, tmp_path):
    assert "no_such" in refusal(
        lambda: large_images.Images("tiny:1.0.0", 9, test="no_such").open(str(folder))
    )
    copied = tmp_path / "tiny/1.0.0"
    copied.mkdir(parents=True)
    for path in (folder / "tiny/1.0.0").glob("*.json"):
        (copied / path.name).write_text(path.read_text().replace("array_record", "tfrecord"))
    assert "array_record" in refusal(lambda: SET.open(str(tmp_path)))


@pytest.mark.parametrize("damage", ["cut short", "no image", "empty"])
def test_a_damaged_image_is_named(tmp_path, damage):
    good = encode(picture(0))
    bad = {"cut short": good[: len(good) // 2], "no image": b"<html>", "empty": b""}[damage]
    split = [
        {"image": x, "label": 0, "file_name": f"n{i}.JPEG"} for i, x in enumerate([good, good, bad, good])
    ]
    prepare(tmp_path, "bad:1.0.0", 1, {"train": split, "validation": split})
    opened = large_images.Images("bad:1.0.0", 1).open(str(tmp_path))
    assert "image train[2] (n2.JPEG)" in refusal(lambda: list(opened.train(0, 2, seed=0)))
    assert "image validation[2] (n2.JPEG)" in refusal(lambda: list(opened.test(2)))


def test_a_record_file_that_is_gone_is_named(tmp_path):
    prepare(tmp_path, "gone:1.0.0", 3, {"train": examples(3, 0), "validation": examples(3, 0)}, shards=3)
    opened = large_images.Images("gone:1.0.0", 3).open(str(tmp_path))
    (tmp_path / "gone/1.0.0/gone-train.array_record-00001-of-00003").unlink()
    assert "image train[1]" in refusal(lambda: list(opened.train(0, 2, seed=0)))


def test_room_for_every_shard_within_the_systems_limit(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, pair: limits.append(pair))
    for count, expected in [(1000, 2024), (10_000, 4096), (1, 4096)]:
        large_images.allow_open_files(count)
        assert limits[-1] == (expected, 4096)
    assert len(limits) == 3  # nothing to raise the last time


def test_images_stream_without_tensorflow(folder, tmp_path):
    code = "from wsn.data import large_images\n"
    code += f"opened = large_images.Images('tiny:1.0.0', 37).open({os.fspath(folder)!r})\n"
    code += "print(sum(batch.weight.sum() for batch in opened.test(4)))\n"
    assert run_without_tensorflow(code, tmp_path).split() == [f"{TEST:.1f}"]


def test_benchmark_measures_every_part_and_the_stream(tmp_path):
    encoded = [encode(picture(0))] * 4
    prepare(
        tmp_path, "photos:1.0.0", 10, {"train": [{"image": x, "label": 0, "file_name": ""} for x in encoded]}
    )
    rows = of_input.measure_parts(encoded, repeats=1)
    rows.append(of_input.measure_stream(tmp_path, len(encoded), threads=2, repeats=1))
    assert len({row["what"] for row in rows}) == 6
    for row in rows:
        assert row["images_per_second"] > 0
        np.testing.assert_allclose(row["cpu_milliseconds"] * row["images_per_second_per_core"], 1000)
