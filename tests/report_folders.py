"""Folders for the tests of the page, made of real records with pretended curves."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsn import stored
from wsn.records import partial, record
from wsn.records.record import Label
from wsn.spec import Group, Spec
from wsn.training.history import EMPTY, History

ROWS = 60


def spec(width: int, **changes) -> Spec:
    """Of digits, 222 weights, dense at width 3."""
    kept = {} if width == 3 else {"kept": (("hidden_0", 192), ("output", 30))}
    return Spec(
        **dict(dataset="digits", width=width, epochs=ROWS, batch_size=20, learning_rate=0.1) | kept | changes
    )


def history(members: int, rows: int = ROWS, seed: int = 0) -> History:
    random, step = np.random.default_rng(seed), np.arange(1, rows + 1)
    curves = {
        f"{split}_{metric}": (np.exp(-step[:, None] / 20) + random.uniform(0, 0.1, (rows, members))).astype(
            np.float32
        )
        / 2
        for split in ("train", "test")
        for metric in ("loss", "accuracy")
    }
    return History(50 * step.astype(np.int64), curves)


def experiment(workdir: Path, widths: Sequence[int] = (3, 6, 12, 24), experiment: str = "mlp_grid") -> None:
    for width in widths:
        group = Group((spec(width),), (0, 1))
        labels = {spec(width): Label(experiment, "quick", 3, "dense" if width == 3 else "sparse")}
        write(workdir, group, history(2, seed=width), labels)


def write(workdir: Path, group: Group, history: History, labels: record.Labels | None = None) -> Path:
    path = workdir / "runs" / group.name / "record.jsonl"
    record.write(path, group, history, labels, finished="2026-01-01T00:00:00+00:00", seconds=12.0)
    return path


def diverging(workdir: Path) -> None:
    curves = history(3)
    for values in curves.curves.values():
        values[20:] = np.nan
    write(workdir, Group((spec(6, learning_rate=9.0),), (0, 1, 2)), curves)
    write(workdir, Group((spec(12, learning_rate=1.0),), (0, 1, 2)), history(3))


def damaged(workdir: Path) -> None:
    path = write(workdir, Group((spec(3, learning_rate=0.7),), (0,)), history(1))
    path.write_text(path.read_text()[:-40])


def training(workdir: Path, share: float, owner: dict | None = None) -> Path:
    """A group of which so much is done."""
    group = Group((spec(12, learning_rate=0.3),), (0, 1))
    path = workdir / "runs" / group.name / partial.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = partial.Partial(path.parent, group, EMPTY, None, None)
    writer.first = (0.0, 0.0)
    writer.write(share, history(2, round(share * ROWS)))
    return path


def hostile(workdir: Path, text: str) -> None:
    """`text` in every string that a folder can have; what refuses it refuses the record, which is noted."""
    group = Group((spec(6),), (0, 1))
    path = write(workdir, group, history(2))
    changed(
        path,
        lambda header: {
            "labels": [Label(text, text, 3, text)._asdict()],
            "text": text,
            "packages": {text: text},
            "code": {"version": text, "commit": text},
            "device": {"platform": text, "kind": text, "count": 1},
        },
    )
    for i, field in enumerate(("dataset", "model", "activation", "task", "mask", "optimizer")):
        other = Group((spec(6, **{field: text}),), (0, 1))
        write(workdir / str(i), other, history(2), {other.specs[0]: Label(text, text, 3, text)})
    growing = training(workdir, 0.5)
    changed(
        growing, lambda header: {"owner": {"host": text, "pid": 1}, "written": "2026-01-01T00:00:00+00:00"}
    )
    name = "".join(letter for letter in text if letter not in "/") + "t"
    (workdir / f"{name}.csv").write_text(
        f"width,{_quoted(text)},x_mean\n1,{_quoted(text)},1\n2,{_quoted(text)},2\n"
    )
    (workdir / f"{name}.command").write_text(f"python -m experiments.mlp_grid {text}\n")
    (workdir / f"{name}.png").write_bytes(b"")
    told = {
        "command": text,
        "said": [text],
        "code": {"version": text, "commit": text},
        "packages": {text: text},
        "device": {"platform": text, "kind": text, "count": 1},
    }
    (workdir / f"{name}.said.json").write_text(json.dumps(stored.add_checksum(told)))
    broken = workdir / "runs" / "damaged" / "record.jsonl"
    broken.parent.mkdir()
    broken.write_text(text)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def changed(path: Path, change) -> None:
    """A record with other values in its header, and the digest of those."""
    header, *lines = map(json.loads, path.read_text().splitlines())
    header = {name: value for name, value in (header | change(header)).items() if name != stored.DIGEST}
    path.write_text("\n".join(map(json.dumps, (stored.add_checksum(header, *lines), *lines))) + "\n")
