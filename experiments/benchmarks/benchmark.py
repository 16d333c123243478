"""How fast training is, as ratios within one run: masked against unmasked, ours against PyTorch and the machine.

    python -m experiments.benchmark                  # a few minutes; PyTorch is compared if it is installed

The networks are those of Figure 8 (one hidden layer, NTK, last layer dense, 6352 weights) on arrays of MNIST's shape:
a model-epoch is 8 steps of 256 examples and an evaluation on 10,000. All candidates of one width take turns; medians.
`matrix product` is the time that the dense arithmetic of a model-epoch takes at this machine's own float32
matrix-product rate: nothing that multiplies masked weights can be faster. The PyTorch loop trains one seed after the
other with all data in memory, masks applied by multiplication, no data loader.
The theory has its own: experiments.benchmark_theory.
Writes WORKDIR/benchmark.csv and WORKDIR/benchmark.png.
"""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.timing import comparison, epoch, interleaved, tell
from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn import data, devices
from wsn.machine import NETWORK_BYTES
from wsn.records import plan
from wsn.sparsity import family
from wsn.sparsity.shapes import mlp_shapes
from wsn.spec import WIDEST, Group, Spec, check_bounds, setting
from wsn.training import train

EXPERIMENT = "benchmark"
COLUMNS = ["what", "width", "seeds", "milliseconds", "reference", "reference_milliseconds", "ratio", "gflops"]
IMAGE, CLASSES, TRAIN, TEST, BATCH, BASE_WIDTH = (28, 28, 1), 10, 2048, 10000, 256, 8
SPEC = Spec(
    dataset="mnist", width=BASE_WIDTH, parameterization="ntk", epochs=1, batch_size=BATCH, learning_rate=1.0
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. Raises UserError for numbers out of range."""

    widths: tuple[int, ...] = setting(
        "Widths to measure, comma-separated.", (8, 32, 216, 635), least=1, most=WIDEST, some=True
    )
    seeds: int = setting("Seeds that train as one program.", 10, least=1, bytes=NETWORK_BYTES)
    repeats: int = setting("Repeats of each measurement (medians are reported).", 7, least=5)

    def __post_init__(self) -> None:
        check_bounds(self)


def network(width: int) -> Spec:
    """The sparse network of Figure 8 at this width (dense at the base width)."""

    def shapes(w: int):
        return mlp_shapes(784, [w], CLASSES)

    return family.sparse(SPEC, BASE_WIDTH, [width], shapes, "dense_last")[0]


def noise() -> data.Splits:
    """Random pixels in the shape of MNIST."""
    random = np.random.default_rng(0)

    def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = random.integers(0, 256, (count, *IMAGE), dtype=np.uint8)
        return images, random.integers(0, CLASSES, count).astype(np.int32)

    train_images, train_labels = examples(TRAIN)
    all_images = data.Dataset(train_images, train_labels, *examples(TEST), classes=CLASSES)
    return data.split(
        all_images, train_samples=None, validation_samples=0, data_seed=0, normalization="scalar"
    )


def wsn_epoch(spec: Spec, seeds: int, *, masked: bool, evaluate: bool) -> Callable[[], None]:
    """An epoch of all seeds in one program, as `wsn.training` runs it; the state goes on from call to call."""
    placement = devices.Placement("single", (jax.local_devices()[0],))
    prepared = train.prepare(Group((spec,), tuple(range(seeds))), noise(), placement)
    members = prepared.members if masked else prepared.members._replace(mask={})
    return epoch(prepared._replace(members=members), evaluate=evaluate)


def torch_epoch(spec: Spec, seeds: int) -> Callable[[], None] | None:
    """The same work as a tight PyTorch loop, seed after seed; None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    functional = torch.nn.functional
    connectivity = dict(spec.kept).get("hidden_0", 784 * spec.width) / (784 * spec.width)
    x, y = torch.randn(TRAIN, 784), torch.randint(0, CLASSES, (TRAIN,))
    x_test, y_test = torch.randn(TEST, 784), torch.randint(0, CLASSES, (TEST,))
    networks = []
    for _ in range(seeds):
        first = torch.randn(784, spec.width, requires_grad=True)
        last = torch.randn(spec.width, CLASSES, requires_grad=True)
        networks.append((first, last, (torch.rand(784, spec.width) < connectivity).float()))

    def logits(first, last, keep, inputs):
        hidden = torch.relu(inputs @ (first * keep) * 784**-0.5)
        return hidden @ last * spec.width**-0.5

    def run() -> None:
        for first, last, keep in networks:
            order = torch.randperm(TRAIN)
            for start in range(0, TRAIN, BATCH):
                rows = order[start : start + BATCH]
                loss = functional.cross_entropy(logits(first, last, keep, x[rows]), y[rows])
                gradients = torch.autograd.grad(loss, (first, last))
                with torch.no_grad():
                    for parameter, gradient in zip((first, last), gradients, strict=True):
                        parameter -= gradient
            with torch.no_grad():
                output = logits(first, last, keep, x_test)
                functional.cross_entropy(output, y_test).item()
                (output.argmax(1) == y_test).float().mean().item()

    return run


def dense_flops(width: int, *, evaluate: bool) -> int:
    """Dense arithmetic of a model-epoch: forward, gradient of both layers, gradient of the hidden units."""
    first, last = 784 * width, width * CLASSES
    return TRAIN * (4 * first + 6 * last) + (TEST * 2 * (first + last) if evaluate else 0)


def measure_width(width: int, seeds: int, repeats: int) -> list[dict]:
    """All comparisons at one width; times are for one model (the program's time over the seeds)."""
    spec = network(width)
    rows = []
    steps = dense_flops(width, evaluate=False)
    for count in sorted({1, seeds}) if spec.kept else []:
        candidates = {
            "masked": wsn_epoch(spec, count, masked=True, evaluate=False),
            "unmasked": wsn_epoch(spec, count, masked=False, evaluate=False),
        }
        seconds = interleaved(candidates, 4 * repeats)
        per_step = {name: values / count / (TRAIN // BATCH) for name, values in seconds.items()}
        flops = steps / (TRAIN // BATCH)
        rows.append(
            row("masked step", width, count, per_step["masked"], "unmasked", per_step["unmasked"], flops)
        )

    candidates = {"wsn": wsn_epoch(spec, seeds, masked=bool(spec.kept), evaluate=True)}
    if (loop := torch_epoch(spec, seeds)) is not None:
        candidates["PyTorch loop"] = loop
    rates: list[float] = []
    seconds = interleaved(candidates | {"rate": lambda: rates.append(plan.matrix_rate(0.1))}, repeats)
    flops = dense_flops(width, evaluate=True)
    ours = seconds["wsn"] / seeds
    references = {"matrix product": flops / np.array(rates[1:])}
    if loop is not None:
        references["PyTorch loop"] = seconds["PyTorch loop"] / seeds
    for name, theirs in references.items():
        rows.append(row("model-epoch", width, seeds, ours, name, theirs, flops))
    return rows


def row(
    what: str, width: int, seeds: int, ours: np.ndarray, reference: str, theirs: np.ndarray, flops: float
) -> dict:
    """A row of the table from seconds per repeat."""
    case = {"what": what, "width": width, "seeds": seeds, "reference": reference}
    return case | comparison(ours, theirs, flops)


def first_step_seconds(repeats: int) -> float:
    """Median time of a new process from its start to the end of its first epoch, on the embedded digits."""
    program = (
        "from wsn import data; from wsn.training import train; from wsn.spec import Group, Spec;"
        "s = Spec(dataset='digits', width=8, epochs=1, batch_size=100, learning_rate=1.0);"
        "d = data.split(data.load('digits'), train_samples=100, validation_samples=0, data_seed=0,"
        " normalization='scalar');"
        "next(train.train(Group((s,), (0,)), d))"
    )
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def draw(rows: Sequence[dict]) -> Figure:
    """Time of a model-epoch over width, and the time of the masked step over that of the unmasked one."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r for r in rows if r["what"] == "model-epoch"]
    curves = {"wsn": {r["width"]: r["milliseconds"] for r in epochs}}
    for r in epochs:
        curves.setdefault(r["reference"], {})[r["width"]] = r["reference_milliseconds"]
    for (name, points), style in zip(curves.items(), ("o-", "k:", "s--"), strict=False):
        left.plot(list(points), list(points.values()), style, label=name)
    left.set(
        xscale="log", yscale="log", xlabel="width", ylabel="ms per model-epoch", title="Figure 8's networks"
    )
    left.legend(frameon=False)
    steps = [r for r in rows if r["what"] == "masked step"]
    for count in sorted({r["seeds"] for r in steps}):
        points = {r["width"]: r["ratio"] for r in steps if r["seeds"] == count}
        right.plot(list(points), list(points.values()), "o-", label=f"{count} seed{'s' * (count > 1)}")
    right.axhline(1.0, color="0.5", linewidth=0.8)
    right.set(xscale="log", xlabel="width", ylabel="masked / unmasked", title="time of a step")
    if right.lines[1:]:  # a width that loses no weights has no mask
        right.legend(frameon=False)
    widths = sorted({r["width"] for r in rows})
    for axes in (left, right):
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.xaxis.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.suptitle(output.machine(), fontsize=10)
    return figure


def main(settings: Settings, run: Output) -> None:
    for width in settings.widths:
        network(width)  # a width that cannot hold the budget shows before anything is measured
    rows = []
    for width in settings.widths:
        print(f"width {width} …", file=sys.stderr, flush=True)
        rows += measure_width(width, settings.seeds, settings.repeats)
    seconds = first_step_seconds(settings.repeats)
    print(f"{seconds:.1f} s from the start of a process to its first epoch (digits)")
    tell(run, EXPERIMENT, rows, COLUMNS, draw(rows))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
