"""A step of ResNet-18: against masked and unmasked execution, PyTorch, and the matrix-product rate.

A step of the paper's recipe on 32 × 32 images that are stored and augmented on the device. Ours is the execution that
`auto` chooses, `masked` the masked one where that differs, `unmasked` a dense network of the same width. PyTorch runs
the dense network, channels last, without augmentation (which favors it), bfloat16 by autocast, `torch.compile` on a
GPU. Defaults: on a CPU widths 8, 18 and 40, batch 128, float32; on a GPU widths 18 and 64, batches 128 and 512,
float32 and bfloat16.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.programs import torch_training
from experiments.benchmarks.settings import Report, Settings, comparison, interleaved, progress
from experiments.lab import output
from experiments.lab.plots import tidy
from wsn.data import batches
from wsn.networks import models
from wsn.records import plan
from wsn.sparsity import family
from wsn.spec import Group, Spec
from wsn.tasks.classification import classification
from wsn.training import optimizers, strategy
from wsn.training.state import initial_members
from wsn.training.step import make_step

IMAGE, CLASSES, TRAIN, BASE_WIDTH, EPOCH = (32, 32, 3), 100, 2048, 8, 50_000


def network(width: int, batch: int, dtype: Any) -> Spec:
    """The sparse network with the weights of the dense one of width 8, recipe of Appendix A; dense at width 8."""
    template = Spec(
        dataset="cifar100",
        model="resnet18",
        width=width,
        epochs=1,
        batch_size=batch,
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        augmentation="crop_flip",
        compute_dtype=dtype,
    )

    def shapes(width: int) -> dict[str, tuple[int, ...]]:
        return models.build(dataclasses.replace(template, width=width), IMAGE, CLASSES).shapes

    return family.sparse(template, BASE_WIDTH, [width], shapes, "largest_first")[0]


def wsn_step(spec: Spec, execution: str, *, masked: bool = True) -> Callable[[], None]:
    """A step as `wsn.training` runs it; without masks that of a dense network."""
    model, group = models.build(spec, IMAGE, CLASSES), Group((spec,), (0,))
    task, optimizer = classification(model), optimizers.build(spec, optimizers.Horizon(1, 1))
    sparse = strategy.sparse_layers(group, model, execution)
    members = initial_members(group, model, optimizer, (), sparse)
    member = jax.tree.map(lambda x: jnp.asarray(x[0]), members if masked else members._replace(mask={}))
    mean = np.full((1, 1, 3), 120, np.float32)
    make_batch = batches.make_augmented_batch(batches.crop_flip, mean, mean / 2)
    step = make_step(task, optimizer)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (TRAIN, *IMAGE), dtype=np.uint8)
    data = batches.Examples(jnp.asarray(images), jnp.asarray(random.integers(0, CLASSES, TRAIN), jnp.int32))
    rows = batches.shuffled(jax.random.key(0), 0, examples=TRAIN, batch_size=spec.batch_size, noisy=True)
    row = jax.tree.map(lambda x: x[0], rows)
    compiled = (
        jax.jit(lambda m, r, d: step(m, make_batch(d, r)), donate_argnums=0)
        .lower(member, row, data)
        .compile()
    )
    state = [member]

    def run() -> None:
        state[0], _ = compiled(state[0], row, data)
        jax.block_until_ready(state[0])

    return run


def dense_flops(spec: Spec) -> float:
    """FLOPs of a dense step: three times the forward pass (two gradients, of activations and of weights)."""
    model = models.build(spec, IMAGE, CLASSES)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    forward = jax.jit(model.apply).lower(*variables, jnp.zeros((spec.batch_size, *IMAGE))).cost_analysis()
    return 3 * (forward or {}).get("flops", float("nan"))


def measure_case(width: int, batch: int, dtype: str, repeats: int) -> list[dict]:
    """A row for each reference."""
    spec = network(width, batch, dtype)
    flops = dense_flops(spec)
    candidates = {"ours": wsn_step(spec, "auto")}
    model = models.build(spec, IMAGE, CLASSES)
    sparse = bool(strategy.sparse_layers(Group((spec,), (0,)), model, "auto"))
    if sparse:
        candidates["masked"] = wsn_step(spec, "masked")
    if spec.kept:
        candidates["unmasked"] = wsn_step(spec, "masked", masked=False)
    if (theirs := torch_training(spec, CLASSES)) is not None:
        candidates["PyTorch"] = theirs
    rates: list[float] = []
    timed = candidates | {"rate": lambda: rates.append(plan.matrix_rate(0.2))}
    seconds = interleaved(timed, repeats, settle=True)
    references = {name: seconds[name] for name in candidates if name != "ours"}
    references["matrix product"] = flops / np.array(rates[3::2])  # without the warm-ups
    time, what = float(np.median(seconds["ours"])), "sparse" if sparse else "masked" if spec.kept else "dense"
    case = {
        "width": width,
        "batch": batch,
        "dtype": dtype,
        "what": f"{what} step",
        "milliseconds": 1e3 * time,
    }
    case |= {"images_per_second": batch / time, "seconds_per_epoch": EPOCH / batch * time}
    return [case | comparison(seconds["ours"], *reference, flops) for reference in references.items()]


def draw(rows: Sequence[dict]) -> Figure:
    """Time of our step relative to each reference, a group of bars for each width, batch size and dtype."""
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes = figure.subplots()
    cases = list(dict.fromkeys((r["width"], r["batch"], r["dtype"]) for r in rows))
    names = list(dict.fromkeys(r["reference"] for r in rows))
    for i, name in enumerate(names):
        group = [r for r in rows if r["reference"] == name]
        places = [cases.index((r["width"], r["batch"], r["dtype"])) + 0.2 * i for r in group]
        bars = axes.bar(places, [r["ratio"] for r in group], 0.18, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1.0, color="0.4", linewidth=0.8)
    labels = [f"width {width}\nbatch {batch}\n{dtype}" for width, batch, dtype in cases]
    axes.set_xticks(np.arange(len(cases)) + 0.2 * (len(names) - 1) / 2, labels)
    axes.set(ylabel="time of our step / time of the reference", title=f"ResNet-18, {output.machine()}")
    tidy(axes)
    axes.legend(frameon=False)
    return figure


def measure(settings: Settings) -> Report:
    gpu = jax.default_backend() != "cpu"
    widths = settings.widths or ((18, 64) if gpu else (8, 18, 40))
    sizes = settings.batch_sizes or ((128, 512) if gpu else (128,))
    dtypes = settings.dtypes or (("float32", "bfloat16") if gpu else ("float32",))
    rows = []
    for case in itertools.product(widths, sizes, dtypes):
        network(*case)  # raises before anything is measured if a width cannot hold the budget
        progress("width {}, batch {}, {}".format(*case))
        rows += measure_case(*case, settings.repeats)
    return Report(rows, draw(rows))
