"""What the tests of experiments share: command lines in this process, and data without files."""

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
def told(monkeypatch, tmp_path) -> Callable:
    """(settings, run) of a command line in a folder of its own, without any flag of this process."""

    def tell(command: Command, *arguments: str, workdir: Path = tmp_path / "out") -> tuple:
        arguments = (f"--workdir={workdir}", *arguments)
        monkeypatch.setattr(sys, "argv", [Path(command.run.workdir).name, *arguments])
        return flags.parse(command, arguments)

    return tell


@pytest.fixture
def six_pixels(monkeypatch):
    """Images of six pixels in the place of `digits`, for scripts that load their data by name."""
    images = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 1), np.uint8)
    tiny = data.Dataset(images, np.zeros(40, np.int32), images[:20], np.zeros(20, np.int32), classes=10)

    def dataset(name, data_dir=None):
        return tiny if name == "digits" else data.load(name, data_dir)

    monkeypatch.setattr(sources, "dataset", dataset)
