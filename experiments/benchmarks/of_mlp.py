"""MLPs of Figure 8: masked against unmasked steps, and an epoch against PyTorch and the matrix-product rate.

One hidden layer, NTK parameterization, last layer dense, 6352 weights, on random arrays of MNIST's shape: an epoch is
8 steps of 256 examples and an evaluation on 10,000. The PyTorch loop trains one seed after another with all data in
memory and masks applied by multiplication. Times are those of one network: the program's time over its members.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.settings import Report, Settings, comparison, epoch, interleaved, progress, torch
from experiments.lab import output
from experiments.lab.plots import tidy
from wsn import data, devices
from wsn.records import plan
from wsn.sparsity import family
from wsn.sparsity.shapes import mlp_shapes
from wsn.spec import Group, Spec
from wsn.training import train

IMAGE, CLASSES, TRAIN, TEST, BATCH, BASE_WIDTH = (28, 28, 1), 10, 2048, 10000, 256, 8
SPEC = Spec(
    dataset="mnist", width=BASE_WIDTH, parameterization="ntk", epochs=1, batch_size=BATCH, learning_rate=1.0
)


def network(width: int) -> Spec:
    """The sparse network of Figure 8 of this width; dense at the base width."""
    return family.sparse(SPEC, BASE_WIDTH, [width], lambda w: mlp_shapes(784, [w], CLASSES), "dense_last")[0]


def noise() -> data.Splits:
    """Random images of MNIST's shape."""
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
    """An epoch of all seeds in one program, as `wsn.training` runs it."""
    placement = devices.Placement("single", (jax.local_devices()[0],))
    prepared = train.prepare(Group((spec,), tuple(range(seeds))), noise(), placement)
    members = prepared.members if masked else prepared.members._replace(mask={})
    return epoch(prepared._replace(members=members), evaluate=evaluate)


def torch_epoch(spec: Spec, seeds: int) -> Callable[[], None] | None:
    """The same epoch as a PyTorch loop, seed after seed; None where PyTorch is not installed."""
    if (pt := torch()) is None:
        return None
    functional = pt.nn.functional
    connectivity = dict(spec.kept).get("hidden_0", 784 * spec.width) / (784 * spec.width)
    x, y = pt.randn(TRAIN, 784), pt.randint(0, CLASSES, (TRAIN,))
    x_test, y_test = pt.randn(TEST, 784), pt.randint(0, CLASSES, (TEST,))
    networks = []
    for _ in range(seeds):
        first = pt.randn(784, spec.width, requires_grad=True)
        last = pt.randn(spec.width, CLASSES, requires_grad=True)
        networks.append((first, last, (pt.rand(784, spec.width) < connectivity).float()))

    def logits(first, last, mask, inputs):
        hidden = pt.relu(inputs @ (first * mask) * 784**-0.5)
        return hidden @ last * spec.width**-0.5

    def run() -> None:
        for first, last, mask in networks:
            order = pt.randperm(TRAIN)
            for rows in order.split(BATCH):
                loss = functional.cross_entropy(logits(first, last, mask, x[rows]), y[rows])
                gradients = pt.autograd.grad(loss, (first, last))
                with pt.no_grad():
                    for parameter, gradient in zip((first, last), gradients, strict=True):
                        parameter -= gradient
            with pt.no_grad():
                output = logits(first, last, mask, x_test)
                functional.cross_entropy(output, y_test).item()
                (output.argmax(1) == y_test).float().mean().item()

    return run


def dense_flops(width: int, *, evaluate: bool) -> int:
    """FLOPs of an epoch of the dense network: forward pass, gradients of both layers and of the hidden units."""
    first, last = 784 * width, width * CLASSES
    return TRAIN * (4 * first + 6 * last) + (TEST * 2 * (first + last) if evaluate else 0)


def measure_width(width: int, seeds: int, repeats: int) -> list[dict]:
    """All comparisons at one width."""
    spec, rows = network(width), []
    steps = TRAIN // BATCH

    def add(what: str, count: int, *compared: Any) -> None:
        rows.append({"what": what, "width": width, "seeds": count} | comparison(*compared))

    for count in sorted({1, seeds}) if spec.kept else []:
        candidates = {
            name: wsn_epoch(spec, count, masked=name == "masked", evaluate=False)
            for name in ("masked", "unmasked")
        }
        seconds = {name: s / count / steps for name, s in interleaved(candidates, 4 * repeats).items()}
        flops = dense_flops(width, evaluate=False) / steps
        add("masked step", count, seconds["masked"], "unmasked", seconds["unmasked"], flops)
    candidates = {"wsn": wsn_epoch(spec, seeds, masked=bool(spec.kept), evaluate=True)}
    if (loop := torch_epoch(spec, seeds)) is not None:
        candidates["PyTorch loop"] = loop
    rates: list[float] = []
    seconds = interleaved(candidates | {"rate": lambda: rates.append(plan.matrix_rate(0.1))}, repeats)
    flops = dense_flops(width, evaluate=True)
    references = {name: seconds[name] / seeds for name in candidates if name != "wsn"}
    for name, theirs in {"matrix product": flops / np.array(rates[1:]), **references}.items():
        add("model-epoch", seeds, seconds["wsn"] / seeds, name, theirs, flops)
    return rows


def draw(rows: Sequence[dict]) -> Figure:
    """Time of an epoch over width, and the time of the masked step relative to the unmasked one."""
    figure = Figure(figsize=(9.5, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r for r in rows if r["what"] == "model-epoch"]
    curves = {"wsn": {r["width"]: r["milliseconds"] for r in epochs}}
    for r in epochs:
        curves.setdefault(r["reference"], {})[r["width"]] = r["reference_milliseconds"]
    for (name, points), style in zip(curves.items(), ("o-", "k:", "s--"), strict=False):
        left.plot(list(points), list(points.values()), style, label=name)
    left.set(
        yscale="log",
        xlabel="width",
        ylabel="ms per epoch and network",
        title="an epoch of Figure 8's networks",
    )
    left.legend(frameon=False)
    steps = [r for r in rows if r["what"] == "masked step"]
    for count in sorted({r["seeds"] for r in steps}):
        points = {r["width"]: r["ratio"] for r in steps if r["seeds"] == count}
        right.plot(list(points), list(points.values()), "o-", label=f"{count} network{'s' * (count > 1)}")
    right.axhline(1.0, color="0.5", linewidth=0.8)
    right.set(xlabel="width", ylabel="masked / unmasked", title="time of a step")
    if right.lines[1:]:  # the dense network of base width has no masks
        right.legend(frameon=False)
    for axes in (left, right):
        tidy(axes, [r["width"] for r in rows])
    figure.suptitle(output.machine(), fontsize=10)
    return figure


def measure(settings: Settings) -> Report:
    widths = settings.widths or (8, 32, 216, 635)
    for width in widths:
        network(width)  # raises before anything is measured if a width cannot hold the budget
    rows = []
    for width in widths:
        progress(f"width {width}")
        rows += measure_width(width, max(settings.members or (10,)), settings.repeats)
    return Report(rows, draw(rows))
