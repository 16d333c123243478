"""Commands compile for machines that are not here; the compilers are stubbed (see tests/devices/test_targets.py)."""

import csv
import itertools

import pytest

from experiments.benchmarks import compile as script
from experiments.lab import ahead
from experiments.width import kernel_distance
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Group, Spec

ROW = {name: 1.0 for name in ahead.COLUMNS if name not in ("kind", "width", "dtype")}


@pytest.fixture
def stubbed(monkeypatch):
    """Programs that need as many GiB as the network is wide, of 5; the list of compiled widths."""
    widths: list[int] = []

    def describe_group(group, source, target, execution):
        widths.append(group.specs[0].width)
        return ROW | {"peak_gib": widths[-1], "memory_gib": 5, "fits": widths[-1] <= 5, "device_hours": 2.0}

    monkeypatch.setattr(ahead, "describe_group", describe_group)
    return widths


def test_a_command_prints_what_its_groups_take_and_trains_nothing(parsed, stubbed, tmp_path, capsys):
    kernel_distance.main(*parsed(kernel_distance.COMMAND, "--target=v5e:1", "--widths=3,4"))
    assert "at least 6 device-hours for the whole command" in capsys.readouterr().out
    assert stubbed == [3, 4, 4]
    with open(tmp_path / "out" / "compiled.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["width"]) for row in rows] == [("sparse", "3"), ("sparse", "4"), ("dense", "4")]
    assert not (tmp_path / "out" / "runs").exists()


def test_too_little_memory_is_an_error_after_the_table(parsed, stubbed, tmp_path):
    with pytest.raises(UserError, match="^`target=v5e:1`: width 6 needs 6 GiB of each device, which has 5: "):
        kernel_distance.main(*parsed(kernel_distance.COMMAND, "--target=v5e:1", "--widths=3,6"))
    assert (tmp_path / "out" / "compiled.csv").exists()


def test_what_is_compiled_already_is_not_compiled_again(parsed, stubbed, tmp_path, monkeypatch):
    monkeypatch.setitem(script.RUNS, "figure8", ("kernel_distance --widths=3,4", ("v5e:1", "h100:1")))
    for _ in range(2):
        script.main(*parsed(script.COMMAND))
    assert stubbed == 2 * [3, 4, 4]
    with open(tmp_path / "out" / "compiled.csv", newline="") as file:
        assert [row["run"] for row in csv.DictReader(file)] == 6 * ["figure8"]


def test_a_missing_compiler_ends_the_command_with_its_error(parsed, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setitem(script.RUNS, "figure8", ("kernel_distance --widths=3", ("v5e:1",)))
    with pytest.raises(UserError, match="TPU_LIBRARY_PATH"):
        script.main(*parsed(script.COMMAND))


def test_blank_data_stand_in_for_those_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    common = dict(width=1, epochs=1, batch_size=3, learning_rate=0.1)
    images = Spec(dataset="imagenet2012", model="resnet18", **common)
    source = ahead.source_of(images, None)
    assert source.num_examples(images) == (1_281_167, 50_000)
    feed = source.feed(Group((images,), (0,)), Placement("single", ()))
    [row] = itertools.islice(feed.training(0, 1), 1)
    assert row.inputs.shape[-4:] == (3, 224, 224, 3)
    text = Spec(dataset="text", model="lstm", task="characters", train_samples=1000, **common)
    assert len(ahead.source_of(text, None).train) == 1000
    with pytest.raises(UserError, match="no prepared copy"):
        ahead.source_of(Spec(dataset="cifar10", **common), None)
