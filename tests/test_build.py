"""BUILD.md's "How to add", to the letter: every block runs, and what it adds trains."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny

import wsn
from experiments.lab import flags
from wsn.data.images import DATASETS
from wsn.data.large_images import STREAMS
from wsn.data.speech.recordings import UTTERANCES
from wsn.data.speech.utterances import source_of
from wsn.networks import models
from wsn.sparsity import family
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.spec import Group
from wsn.training import train
from wsn.training.registries import REGISTRIES

TEXT = (Path(wsn.__file__).parents[1] / "BUILD.md").read_text()
SECTION = TEXT[TEXT.index("## How to add") : TEXT.index("## Tests")]
*BLOCKS, EXPERIMENT = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def added():
    """Run all blocks; the registries are as they were afterwards."""
    registries = [
        r for r in (*REGISTRIES.values(), DATASETS, STREAMS, UTTERANCES, DISTRIBUTIONS) if isinstance(r, dict)
    ]
    before = [dict(registry) for registry in registries]
    for block in BLOCKS:
        exec(block, {"__name__": "howto"})  # not __main__: nothing is launched
    yield [set(registry) - set(old) for registry, old in zip(registries, before, strict=True)]
    for registry, old in zip(registries, before, strict=True):
        registry.clear()
        registry.update(old)


def test_every_block_adds_an_entry(added):
    assert sum(map(len, added)) == 11 and len(BLOCKS) == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": "units"},
        {"model": "gated"},
        {"parameterization": "he"},
        {"task": "hinge"},
        {"optimizer": "nesterov", "momentum": 0.9, "schedule": "warmup", "learning_rate": 0.1},
        {"probes": ("signal", "path")},
    ],
    ids=lambda changes: " ".join(map(str, changes)),
)
def test_what_was_added_trains_sparse_and_wide(changes):
    """From a budget by the new distribution to a falling loss, with the exact number of weights."""
    template = tiny.spec(epochs=8, **changes)

    def of_width(width: int) -> dict[str, tuple[int, ...]]:
        return models.plain_shapes(tiny.spec(**changes, width=width), tiny.IMAGE, tiny.CLASSES)

    [spec] = family.sparse(template, 5, [10], of_width, "roots")
    curves, snapshot = tiny.fit(Group((spec,), (0,)))
    kept = {name: np.count_nonzero(x) for name, x in tiny.params(snapshot).items() if name.endswith("kernel")}
    assert sum(kept.values()) == family.kept_weights(spec, of_width(10))
    assert curves["train_loss"][-1, 0] < curves["train_loss"][0, 0]
    if "probes" in changes:
        assert np.isfinite(curves["all/signal"]).all() and np.isfinite(curves["hidden/largest"]).all()


def test_the_utterances_train(tmp_path, monkeypatch):
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path))
    spec = tiny.spec(dataset="tones", task="speech", model="deepspeech", front_end="stack", epochs=30)
    *_, last = train.train(Group((spec,), (0,)), source_of(spec), placement=tiny.SINGLE)
    assert last.history.curves["train_loss"][-1] < last.history.curves["train_loss"][0]


def test_the_experiment_runs(tmp_path, capsys):
    names: dict = {"__name__": "howto"}
    exec(EXPERIMENT, names)
    arguments = [f"--workdir={tmp_path}", "--epochs=2", "--widths=3,6", "--seeds=1", "--optimizer=adam"]
    names["main"](*flags.parse(names["COMMAND"], arguments))
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    header, *rows = (tmp_path / "mine.csv").read_text().splitlines()
    assert header == ",".join(names["COLUMNS"]) and [row.split(",")[0] for row in rows] == ["3", "6"]
    assert len({row.split(",")[2] for row in rows}) == 1, "one weight count"
    assert capsys.readouterr().out.splitlines()[-1].startswith("wrote")
