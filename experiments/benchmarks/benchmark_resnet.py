"""How fast ResNet-18 trains, as ratios within one run: against PyTorch, masked and unmasked kernels, and the machine.

    python -m experiments.benchmark_resnet           # minutes; PyTorch is compared if it is installed

Steps of the paper's recipe on 32 × 32 images that lie on the device, augmented there. Ours is the execution that `auto`
chooses, `masked` the other one if that is sparse, `unmasked` a dense network of the same width. PyTorch's: the last in
channels-last, the same augmentation left out (in its favour), bfloat16 by autocast, `torch.compile` on a GPU. All
candidates of one setting take turns; medians. `matrix product` is the time that the step's arithmetic takes at the
device's own matrix-product rate. Defaults: on a CPU widths 8, 18 and 40, batch 128, float32; on a GPU widths 18 and 64,
batches 128 and 512, float32 and bfloat16. Writes WORKDIR/benchmark_resnet.csv and .png.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.executed import torch_training
from experiments.benchmarks.timing import comparison, interleaved, tell
from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn.data import batches
from wsn.errors import choose
from wsn.networks import models
from wsn.networks.layers import COMPUTE_DTYPES
from wsn.records import plan
from wsn.sparsity import family
from wsn.spec import WIDEST, Group, Spec, check_bounds, setting
from wsn.tasks.classification import classification
from wsn.training import optimizers, strategy
from wsn.training.state import initial_members
from wsn.training.step import make_step

EXPERIMENT = "benchmark_resnet"
COLUMNS = [
    "width",
    "batch",
    "dtype",
    "what",
    "milliseconds",
    "images_per_second",
    "seconds_per_epoch",
    "reference",
    "reference_milliseconds",
    "ratio",
    "gflops",
]
IMAGE, CLASSES, TRAIN, BASE_WIDTH, EPOCH = (32, 32, 3), 100, 2048, 8, 50_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; lists that are empty are as the device is. Raises UserError for numbers out of range."""

    widths: tuple[int, ...] = setting("Widths to measure, comma-separated.", (), least=1, most=WIDEST)
    batch_sizes: tuple[int, ...] = setting(
        "Examples of a step, comma-separated.", (), least=1, bytes=4 * 3 * 32 * 32
    )
    dtypes: tuple[str, ...] = setting("Types of the products: float32, bfloat16.", ())
    repeats: int = setting("Repeats of each measurement (medians are reported).", 7, least=5)

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in self.dtypes:
            choose(dict.fromkeys(COMPUTE_DTYPES), "dtypes", name)


def network(width: int, batch: int, dtype: Any) -> Spec:
    """The sparse network of the family of width 8, by the recipe of Appendix A."""
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
    if width == BASE_WIDTH:
        return template
    return family.sparse(template, BASE_WIDTH, [width], shapes, "largest_first")[0]


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    spec = Spec(dataset="cifar100", model="resnet18", width=width, epochs=1, batch_size=1, learning_rate=1.0)
    return models.build(spec, IMAGE, CLASSES).shapes


def wsn_step(spec: Spec, execution: str, *, masked: bool = True) -> Callable[[], None]:
    """A step as `wsn.train` makes it; the state goes on from call to call. Without masks it is that of a dense one."""
    model, group = models.build(spec, IMAGE, CLASSES), Group((spec,), (0,))
    task, optimizer = classification(model), optimizers.build(spec, optimizers.Horizon(1, 1))
    sparse = strategy.sparse_layers(group, model, execution)
    members = initial_members(group, model, optimizer, (), sparse)
    member = jax.tree.map(lambda x: jnp.asarray(x[0]), members if masked else members._replace(mask={}))
    mean = np.full((1, 1, 3), 120, np.float32)
    take = batches.make_augmented_batch(batches.crop_flip, mean, mean / 2)
    step = make_step(task, optimizer)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (TRAIN, *IMAGE), dtype=np.uint8)
    data = batches.Examples(jnp.asarray(images), jnp.asarray(random.integers(0, CLASSES, TRAIN), jnp.int32))
    rows = batches.shuffled(jax.random.key(0), 0, examples=TRAIN, batch_size=spec.batch_size, noisy=True)
    row = jax.tree.map(lambda x: x[0], rows)
    compiled = (
        jax.jit(lambda m, r, d: step(m, take(d, r)), donate_argnums=0).lower(member, row, data).compile()
    )
    state = [member]

    def run() -> None:
        state[0], _ = compiled(state[0], row, data)
        jax.block_until_ready(state[0])

    return run


def dense_flops(spec: Spec) -> float:
    """FLOPs of a dense step: three forward passes, for there is a gradient of the images and one of the kernels."""
    model = models.build(spec, IMAGE, CLASSES)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    forward = jax.jit(model.apply).lower(*variables, jnp.zeros((spec.batch_size, *IMAGE))).cost_analysis()
    return 3 * (forward or {}).get("flops", float("nan"))


def measure(width: int, batch: int, dtype: str, repeats: int) -> list[dict]:
    """All comparisons of one setting."""
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
    references["matrix product"] = flops / np.array(rates[3::2])  # the measured ones
    time = float(np.median(seconds["ours"]))
    return [
        {
            "width": width,
            "batch": batch,
            "dtype": dtype,
            "what": ("sparse" if sparse else "masked" if spec.kept else "dense") + " step",
            "images_per_second": batch / time,
            "seconds_per_epoch": EPOCH / batch * time,
            "reference": name,
        }
        | comparison(seconds["ours"], reference, flops)
        for name, reference in references.items()
    ]


def draw(rows: Sequence[dict]) -> Figure:
    """Time of our step over that of each reference, a group of bars for each setting."""
    figure = Figure(figsize=(8.0, 4.0), layout="constrained")
    axes = figure.subplots()
    settings = list(dict.fromkeys((r["width"], r["batch"], r["dtype"]) for r in rows))
    names = list(dict.fromkeys(r["reference"] for r in rows))
    for i, name in enumerate(names):
        found = [r for r in rows if r["reference"] == name]
        places = [settings.index((r["width"], r["batch"], r["dtype"])) + 0.2 * i for r in found]
        bars = axes.bar(places, [r["ratio"] for r in found], 0.18, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.axhline(1.0, color="0.4", linewidth=0.8)
    labels = [f"width {width}\nbatch {batch}\n{dtype}" for width, batch, dtype in settings]
    axes.set_xticks(np.arange(len(settings)) + 0.2 * (len(names) - 1) / 2, labels)
    axes.set(ylabel="time of our step / time of the reference", title=f"ResNet-18, {output.machine()}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main(settings: Settings, run: Output) -> None:
    gpu = jax.default_backend() != "cpu"
    widths = settings.widths or ((18, 64) if gpu else (8, 18, 40))
    sizes = settings.batch_sizes or ((128, 512) if gpu else (128,))
    dtypes = settings.dtypes or (("float32", "bfloat16") if gpu else ("float32",))
    rows = []
    for case in itertools.product(widths, sizes, dtypes):
        network(*case)  # a width that cannot hold the budget shows before anything is measured
        print("width {}, batch {}, {} …".format(*case), file=sys.stderr, flush=True)
        rows += measure(*case, settings.repeats)
    tell(run, EXPERIMENT, rows, COLUMNS, draw(rows))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
