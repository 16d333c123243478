"""What the benchmarks share: their settings, what each returns, and PyTorch where it is installed."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.theory import inputs
from wsn.errors import UserError, check_known
from wsn.networks.layers import COMPUTE_DTYPES
from wsn.spec import WIDEST, check_bounds, setting

KINDS = ("mlp", "resnet", "recurrent", "sparse", "theory", "input")


def read_by(kinds: str, help: str, default: Any, **more: Any) -> Any:
    """A setting that only some benchmarks read."""
    return setting(f"{help} Read by {kinds}.", default, kinds=kinds.split(", "), **more)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; an empty list means the defaults of the benchmark.

    Raises UserError for numbers out of range, and for settings that the benchmark does not read.
    """

    of: str = setting("What to measure.", "mlp", choices=KINDS)
    repeats: int = setting("Repeats of each measurement (medians are reported).", 5, least=3)
    widths: tuple[int, ...] = read_by(
        "mlp, resnet, recurrent, sparse", "Widths to measure, comma-separated.", (), least=1, most=WIDEST
    )
    members: tuple[int, ...] = read_by(
        "mlp, recurrent, sparse",
        "Networks that train as one program, comma-separated.",
        (),
        least=1,
        bytes=1024,
    )
    batch_sizes: tuple[int, ...] = read_by("resnet", "Batch sizes.", (), least=1, bytes=4 * 3 * 32 * 32)
    dtypes: tuple[str, ...] = read_by("resnet", "Types of the products: float32, bfloat16.", ())
    networks: tuple[str, ...] = read_by(
        "sparse", "Networks: mlp, conv, resnet18.", ("mlp", "conv", "resnet18"), some=True
    )
    executions: tuple[str, ...] = read_by(
        "sparse",
        "What to compare: sparse, portable, masked, pytorch.",
        ("sparse", "portable", "masked", "pytorch"),
        some=True,
    )
    clock: str = read_by(
        "sparse",
        "Wall time, or the CPU time of all cores, which other programs disturb less.",
        "wall",
        choices=("wall", "cpu"),
    )
    dataset: str | None = read_by(
        "theory", "Images, or gaussian (default: MNIST if available, else gaussian).", None
    )
    data_dir: str | None = read_by(
        "theory", "Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None
    )
    pairs: int = read_by("theory", "Pairs of inputs.", 1000, least=1, bytes=inputs.PAIR_BYTES)
    checked: int = read_by("theory", "Number of pairs to compare with the finest setting.", 100, least=1)
    # The error estimate that refinement uses is up to three times too low on images.
    tolerance: float = read_by("theory", "Estimated scaled error to refine to.", 2e-7, above=0, below=1)
    threads: tuple[int, ...] = read_by(
        "input", "Threads of the stream, comma-separated (default: 1 and all cores).", (), least=1, most=1024
    )
    images: int = read_by(
        "input", "Images to make; at least a batch.", 128, least=64, bytes=3 * 375 * 500 / 20
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in self.dtypes:
            check_known(COMPUTE_DTYPES, "dtypes", name)
        for name in self.networks:
            check_known(("mlp", "conv", "resnet18"), "networks", name)
        for field in dataclasses.fields(self):
            kinds = field.metadata.get("kinds", KINDS)
            if self.of not in kinds and getattr(self, field.name) != field.default:
                raise UserError(
                    f"`{field.name}` does not apply to `of={self.of}`: only to {', '.join(kinds)}"
                )


class Report(NamedTuple):
    """The result of a benchmark: a table, its figure, and lines to print below."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    figure: Figure
    lines: Sequence[str] = ()


@functools.cache
def torch() -> Any:
    """PyTorch, or None where it is not installed."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: not compared")
        return None
    return torch


def finish(axes: Axes, widths: Sequence[int] = ()) -> None:
    """The style of all panels; with `widths` a logarithmic axis with a tick at each."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if widths:
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(widths)), [str(width) for width in sorted(set(widths))])
        axes.xaxis.minorticks_off()
