"""Decoding of ImageNet images: images a second and core, and each part alone.

The images are noise with the 1/f spectrum of photographs, 500 × 375 pixels at JPEG quality 90, about the size of
ImageNet's files. `stream` reads them from a prepared array_record set, as training does. The rate per core counts the
CPU time of all threads, so other programs on the machine disturb it little.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from experiments.benchmarks.settings import Report, Settings, progress
from experiments.lab import output
from experiments.lab.plots import tidy
from wsn.data import crops, large_images
from wsn.machine import usable_cores

WIDTH, HEIGHT, QUALITY, BATCH = 500, 375, 90, 64
SET = large_images.Images("photos:1.0.0", classes=10, test="train")


def photo(seed: int, width: int = WIDTH, height: int = HEIGHT) -> UInt8[np.ndarray, "height width 3"]:
    """Noise with amplitude 1 / frequency, mostly shared by the three channels."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = random.normal(size=(1, height, width)) + 0.5 * random.normal(size=(3, height, width))
    image = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (height, width))
    scaled = 120 + 50 * image / image.std()
    return np.moveaxis(np.clip(scaled, 0, 255).astype(np.uint8), 0, -1)


def jpeg(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def prepare(
    folder: Path, name: str, classes: int, splits: Mapping[str, Sequence[Mapping]], shards: int = 2
) -> None:
    """Write a set with ImageNet's features as array_record, as tensorflow-datasets would, but without TensorFlow.

    Args:
      name: `name:version`.
      splits: examples with `image` (encoded), `label` and `file_name`, at least one for each shard.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=classes),
            "file_name": tfds.features.Text(),
        }
    )
    home = folder / name.replace(":", "/")
    home.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=home, dataset_name=name.split(":")[0], split=split, filetype_suffix="array_record"
        )
        parts = [
            examples[len(examples) * k // shards : len(examples) * (k + 1) // shards] for k in range(shards)
        ]
        for shard, part in enumerate(parts):
            path = template.sharded_filepath(shard_index=shard, num_shards=shards)
            writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
            for example in part:
                writer.write(features.serialize_example(features.encode_example(example)))
            writer.close()
        lengths = [len(part) for part in parts]
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=0, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(data_dir=home, features=features, split_infos=infos, check_data=False)


def measure_work(what: str, threads: int, images: int, work: Callable[[], None], repeats: int) -> dict:
    """A row of the table, from the medians over the repeats after one warm-up."""
    cpu, wall = [], []
    for _ in range(repeats + 1):
        start = time.process_time(), time.perf_counter()
        work()
        cpu.append(time.process_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    seconds = float(np.median(cpu[1:])) / images
    return {
        "what": what,
        "threads": threads,
        "cpu_milliseconds": 1e3 * seconds,
        "images_per_second_per_core": 1 / seconds,
        "images_per_second": images / float(np.median(wall[1:])),
    }


def measure_parts(encoded: Sequence[bytes], repeats: int) -> list[dict]:
    """Decoding alone, resizing alone, and both as the stream does them; one thread, from memory."""
    count = len(encoded)
    decoded = [Image.open(io.BytesIO(x)).convert("RGB") for x in encoded]
    numbers = crops.uniforms(0, 0, count)[:, : crops.ATTEMPTS]

    parts: dict[str, Callable[[int], object]] = {
        "JPEG alone, OpenCV": lambda i: cv2.imdecode(np.frombuffer(encoded[i], np.uint8), cv2.IMREAD_COLOR),
        "JPEG alone, Pillow": lambda i: Image.open(io.BytesIO(encoded[i])).convert("RGB"),
        "resize to 256 alone": lambda i: decoded[i].resize(
            crops.resized(*decoded[i].size), Image.Resampling.BILINEAR
        ),
        "training image": lambda i: crops.decode(encoded[i], partial(crops.random_box, uniform=numbers[i])),
        "test image": lambda i: crops.decode(encoded[i], crops.center_box),
    }

    def all_images(part: Callable[[int], object]) -> None:
        for i in range(count):
            part(i)

    return [measure_work(what, 1, count, partial(all_images, part), repeats) for what, part in parts.items()]


def measure_stream(folder: Path, images: int, threads: int, repeats: int) -> dict:
    """Whole epochs of the prepared set."""
    opened = SET.open(str(folder), threads)

    def epoch() -> None:
        for _ in opened.train(0, BATCH, seed=0):
            pass

    return measure_work("stream", threads, images, epoch, repeats)


def draw(rows: Sequence[dict]) -> Figure:
    """CPU time per image of each part."""
    figure = Figure(figsize=(7.0, 0.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [row["what"] + (f", {row['threads']} threads" if row["threads"] > 1 else "") for row in rows]
    bars = axes.barh(names, [row["cpu_milliseconds"] for row in rows], color="#2f6397")
    labels = [f"{row['images_per_second_per_core']:.0f} images/s per core" for row in rows]
    axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.28)
    axes.set(xlabel="CPU time per image (ms)", title=f"ImageNet input, {output.machine()}")
    tidy(axes)
    return figure


def measure(settings: Settings) -> Report:
    images, repeats = settings.images, settings.repeats
    cv2.setNumThreads(1)
    progress(f"making {images} images")
    encoded = [jpeg(photo(seed)) for seed in range(images)]
    rows = measure_parts(encoded, repeats)
    with tempfile.TemporaryDirectory() as folder:
        examples = [{"image": x, "label": i % 10, "file_name": f"{i}.JPEG"} for i, x in enumerate(encoded)]
        prepare(Path(folder), SET.name, SET.classes, {"train": examples})
        for threads in settings.threads or sorted({1, usable_cores()}):
            rows.append(measure_stream(Path(folder), images, threads, repeats))
    size = np.mean([len(x) for x in encoded]) / 1e3
    line = f"{usable_cores()} CPU cores; {WIDTH}×{HEIGHT} JPEGs of {size:.0f} kB on average"
    return Report(rows, draw(rows), [line])
