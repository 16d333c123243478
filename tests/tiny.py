"""Data and networks so small that a program compiles in a second, for tests of training and of runs.

`python -m tiny WORKDIR NAME GROUPS` trains that many groups, stubbed, together with another such process.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from mocks import CURVES as CURVES
from mocks import STEPS as STEPS
from mocks import stub_train as stub_train

from wsn.data.speech.utterances import Speech, SpeechSplit
from wsn.data.splits import Splits
from wsn.devices import Placement
from wsn.networks.models import SPEECH_MODELS, TOKEN_MODELS
from wsn.records import runs
from wsn.records.record import Result
from wsn.spec import Group, Spec
from wsn.training import train
from wsn.training.history import Snapshot

SINGLE = Placement("single", (jax.devices()[0],))
IMAGE, CLASSES = (3, 3, 1), 4
# 23 and 11 examples: no batch size of the tests divides them.
TRAIN, VALIDATION, TEST = 23, 5, 11


def splits() -> Splits:
    random = np.random.default_rng(0)

    def examples(count):
        images = random.integers(0, 17, (count, *IMAGE), dtype=np.uint8)
        return images, random.integers(0, CLASSES, count).astype(np.int32)

    mean, deviation = np.full((1, 1, 1), 8, np.float32), np.full((1, 1, 1), 5, np.float32)
    return Splits(*examples(TRAIN), *examples(VALIDATION), *examples(TEST), mean, deviation, CLASSES)


SPLITS = splits()
FRAMES, FEATURES = 9, 8  # of the longest utterance, of a frame
HEARD, TESTED = 11, 5  # utterances


def spoken(count: int, seed: int = 0, shortest: int = 5) -> SpeechSplit:
    """Utterances of 1 or 2 letters that differ, the first of them the longest."""
    random = np.random.default_rng(seed)
    lengths = np.r_[FRAMES, random.integers(shortest, FRAMES + 1, count - 1)].astype(np.int32)
    label_lengths = random.integers(1, 3, count).astype(np.int32)
    first = random.integers(1, CLASSES, count)
    labels = np.stack([first, first % (CLASSES - 1) + 1], 1).astype(np.int32)
    labels[np.arange(2) >= label_lengths[:, None]] = 0
    frames = random.normal(size=(lengths.sum(), FEATURES)).astype(np.float32)
    return SpeechSplit(frames, np.cumsum(lengths, dtype=np.int32) - lengths, lengths, labels, label_lengths)


SPEECH = Speech("tiny", spoken(HEARD), spoken(TESTED, 1), tuple("abc"))


def input_shape(model: str) -> tuple[int, ...]:
    """Inputs that a network takes."""
    return () if model in TOKEN_MODELS else (FRAMES, FEATURES) if model in SPEECH_MODELS else (8, 8, 3)


def spec(**changes) -> Spec:
    """9 inputs, 5 hidden units, 4 classes: 45 + 20 weights; 3 steps an epoch."""
    settings = dict(dataset="tiny", width=5, epochs=3, batch_size=8, learning_rate=0.3)
    return Spec(**(settings | changes))


OTHER = {
    "train_samples": 10,
    "kept": (("hidden_0", 3), ("output", 4)),
    "inner": (("hidden_0", 2),),
    "decay_epochs": (2,),
    "probes": ("path",),
    "front_end": "stack",
    "activation": "linear",
    "normalization": "channel",
    "augmentation": "crop_flip",
}


def other(field: str) -> Any:
    """A value that a field of `spec()` does not have; for some of its names one that exists."""
    value = getattr(spec(), field)
    if field in OTHER or isinstance(value, str):
        return OTHER.get(field, "other")
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else (value + 1) / 2


def kept(hidden: int, output: int) -> tuple[tuple[str, int], ...]:
    return ("hidden_0", hidden), ("output", output)


def fit(
    group: Group,
    placement: Placement = SINGLE,
    resume: Snapshot | None = None,
    until: int | None = None,
    execution: str = "masked",
):
    """Train to the end, or to epoch `until`: (curves, snapshot)."""
    epochs = group.specs[0].epochs
    for point in train.train(group, SPLITS, resume=resume, placement=placement, execution=execution):
        if point.step * epochs == point.steps * (until or epochs):
            return point.history.curves, point.snapshot()
    raise AssertionError("no epoch was trained")


def assert_equal(left: dict[str, np.ndarray], right: dict[str, np.ndarray], **tolerance: float) -> None:
    """Arrays of equal names, shapes and types have equal bits, or values within `rtol` and `atol`."""
    assert left.keys() == right.keys()
    compare = partial(np.testing.assert_allclose, **tolerance) if tolerance else np.testing.assert_array_equal
    for name in left:
        assert (left[name].shape, left[name].dtype) == (right[name].shape, right[name].dtype), name
        compare(left[name], right[name], err_msg=name)


def assert_holds(results: list[Result], group: Group) -> None:
    """Every member of the group once, in order, with the values of uninterrupted stubbed training, bit for bit."""
    assert [(r.spec, r.seed) for r in results] == list(group.members)
    *_, last = stub_train(group)
    for i, result in enumerate(results):
        assert result.status == "finished"
        np.testing.assert_array_equal(result.steps, last.history.step)
        expected = {name: values[:, i] for name, values in last.history.curves.items()}
        assert_equal(result.curves, expected)


def params(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Parameters by path, such as `hidden_0/kernel`; the leading axis is that of members."""
    return {
        "/".join(place.removeprefix(".params")[2:-2].split("']['")): leaf
        for place, leaf in snapshot.state.items()
        if place.startswith(".params")
    }


def write_copy(folder: Path, name: str, features: dict, splits: dict[str, list[dict]]) -> None:
    """A data set `name:version` as tensorflow-datasets would prepare it, but without TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    features, infos = tfds.features.FeaturesDict(features), []
    home = folder / name.replace(":", "/")
    home.mkdir(parents=True)
    for split, examples in splits.items():
        template = tfds.core.ShardedFileTemplate(
            home, dataset_name=re.split("[:/]", name)[0], split=split, filetype_suffix="array_record"
        )
        path = template.sharded_filepath(shard_index=0, num_shards=1)
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1")
        for example in examples:
            writer.write(features.serialize_example(features.encode_example(example)))
        writer.close()
        infos.append(
            tfds.core.SplitInfo(split, shard_lengths=[len(examples)], num_bytes=0, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(data_dir=home, features=features, split_infos=infos, check_data=False)


def run_without_tensorflow(code: str, folder: Path) -> str:
    """The output of a program; a stand-in for TensorFlow, first on its path, reports any attempt to import it."""
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text("print('imported TensorFlow')\nraise ImportError\n")
    code = f"import sys; sys.path.insert(0, {os.fspath(folder)!r})\n{code}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0 and "group size" not in ended.stderr, ended.stderr
    assert "imported TensorFlow" not in ended.stdout
    return ended.stdout


def run_experiment(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """`python -m experiments.ARGUMENTS` in another process."""
    name, *flags = arguments
    command = [sys.executable, "-m", f"experiments.{name}", *flags]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def stub_source(
    spec: Spec, folder: Path, seconds: float = 0.01, deaths: int = 0, error: Exception | None = None
):
    """A source for workers, which also stubs training in the process that calls it.

    Every process writes its share of the machine to a file in `folder`. The first `deaths` processes are killed at
    their first group; the network of width 1 raises `error`.
    """
    share = {"cores": sorted(os.sched_getaffinity(0)), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
    (folder / f"{os.getpid()}.share").write_text(json.dumps(share))
    for death in range(deaths):
        with contextlib.suppress(FileExistsError):
            (folder / f"{death}.death").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    if error is not None and spec.width == 1:
        raise error
    train.train = partial(stub_train, seconds=seconds)
    return SPLITS


def share(workdir: Path, name: str, count: int) -> None:
    """Wait for the other process, train, and log every epoch that was trained here."""
    train.train = lambda *args, **settings: stub_train(*args, **settings, seconds=0.01)
    groups = [Group((spec(width=width, epochs=20),), (0, 1)) for width in range(1, count + 1)]
    (workdir / f"{name}.ready").touch()
    while len(list(workdir.glob("*.ready"))) < 2:
        time.sleep(0.01)
    with open(workdir / f"{name}.log", "w") as log:

        def watch(group, share, history):
            if history:
                print(json.dumps([group.specs[0].width, round(20 * share)]), file=log, flush=True)

        runs.run(groups, workdir, lambda spec: SPLITS, checkpoint_seconds=0.0, watch=watch)


if __name__ == "__main__":
    share(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
