"""Shared by the tests of experiments: command lines in this process, and a data set in memory."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import flags
from experiments.lab.flags import Command
from wsn import data
from wsn.data import sources


@pytest.fixture
def parsed(monkeypatch, tmp_path) -> Callable:
    """A function (command, *arguments) → (settings, run), independent of the flags of this process."""

    def parse(command: Command, *arguments: str, workdir: Path = tmp_path / "out") -> tuple:
        arguments = (f"--workdir={workdir}", *arguments)
        monkeypatch.setattr(sys, "argv", [Path(command.run.workdir).name, *arguments])
        return flags.parse(command, arguments)

    return parse


@pytest.fixture
def six_pixels(monkeypatch):
    """Images of six pixels in place of `digits`."""
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 1), np.uint8)
    tiny = data.Dataset(images, np.zeros(40, np.int32), images[:20], np.zeros(20, np.int32), classes=10)

    def dataset(name, data_dir=None):
        return tiny if name == "digits" else data.load(name, data_dir)

    monkeypatch.setattr(sources, "dataset", dataset)
