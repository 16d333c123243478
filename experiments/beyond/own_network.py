"""Your own network, here a transformer: wide and sparse against narrow and dense, at equal weights.

    python -m experiments.own_network  # digits, a minute and a half on 2 cores

The network is a transformer block on scikit-learn's digits (an image is 16 patches of 2 × 2 pixels), trained by
AdamW at the same learning rate for all. It has no parameters but weights, so nothing else grows with the width. The
only lines that use wsn in the training loop are those with `sparsity`.
Writes WORKDIR/own_network.csv, a row per network, and WORKDIR/own_network.png.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, difference, sign
from experiments.lab.launch import Output
from experiments.lab.plots import Plot
from wsn import data, sparsity
from wsn.errors import UserError
from wsn.machine import NETWORK_BYTES
from wsn.spec import WIDEST, check_bounds, setting

EXPERIMENT = "own_network"
COLUMNS = ["kind", "width", "connectivity", "weights", "seeds", "test_accuracy_mean", "test_accuracy_std"]
PLOT = Plot("width", "test_accuracy_mean", "width", "test accuracy (%)", curves=("kind",), percent=True)
PATCH, HEAD, CLASSES, BATCH = 2, 4, 10, 64
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """A family of transformers. Raises UserError if a head does not divide a width."""

    base_width: int = setting(
        "Width of the narrow, dense network whose weights are the budget.", 4, least=HEAD, most=WIDEST
    )
    widths: tuple[int, ...] = setting(
        "Widths of the wider networks, comma-separated.", (8, 16, 32), least=HEAD, most=WIDEST, some=True
    )
    epochs: int = setting("Passes over the training samples.", 30, least=1)
    seeds: int = setting("Number of seeds (0, 1, …) of every network.", 5, least=1, bytes=NETWORK_BYTES)
    learning_rate: float = setting("Learning rate of AdamW, for every network.", 0.01, above=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if any(width % HEAD for width in (self.base_width, *self.widths)):
            raise UserError(
                f"`widths`, `base_width`: every width must be a multiple of {HEAD}, the size of a head"
            )
        if min(self.widths) <= self.base_width or len(set(self.widths)) < len(self.widths):
            raise UserError(f"`widths`: give different widths above the base width {self.base_width}")


class Transformer(nn.Module):
    """Patches → a block of attention and MLP, each with LayerNorm before it → mean over patches → logits."""

    width: int

    @nn.compact
    def __call__(self, images: Float[Array, "batch side side"]) -> Array:
        batch, side, _ = images.shape
        n = side // PATCH
        patches = images.reshape(batch, n, PATCH, n, PATCH).swapaxes(2, 3).reshape(batch, n * n, PATCH**2)
        normal = nn.LayerNorm(use_bias=False, use_scale=False)
        attention = nn.MultiHeadDotProductAttention(self.width // HEAD, use_bias=False, name="attention")
        x = nn.Dense(self.width, use_bias=False, name="patches")(patches)
        x += self.param("positions", nn.initializers.normal(0.02), (n * n, self.width))
        x += attention(normal(x))
        hidden = nn.gelu(nn.Dense(4 * self.width, use_bias=False, name="up")(normal(x)))
        x += nn.Dense(self.width, use_bias=False, name="down")(hidden)
        return nn.Dense(CLASSES, use_bias=False, name="classes")(normal(x).mean(1))


class Digits(NamedTuple):
    """Standardized images, and labels."""

    train_images: Float[Array, "train side side"]
    train_labels: Int[Array, " train"]
    test_images: Float[Array, "test side side"]
    test_labels: Int[Array, " test"]


def digits() -> Digits:
    loaded = data.load("digits")
    mean, deviation = loaded.train_images.mean(), loaded.train_images.std()

    def images(raw: np.ndarray) -> Array:
        return jnp.asarray((raw[..., 0] - mean) / deviation, jnp.float32)

    return Digits(
        images(loaded.train_images),
        jnp.asarray(loaded.train_labels),
        images(loaded.test_images),
        jnp.asarray(loaded.test_labels),
    )


def initial(width: int, key: PRNGKeyArray, images: Float[Array, "..."]) -> PyTree:
    return Transformer(width).init(key, images[:1])["params"]


def train(
    width: int, digits: Digits, epochs: int, learning_rate: float, key: PRNGKeyArray, mask: PyTree
) -> Float[Array, ""]:
    """Test accuracy of one network after training; `key` gives initial weights and batch order."""
    images, labels, *test = digits
    params = sparsity.mask_and_rescale(initial(width, jax.random.fold_in(key, 0), images), mask)
    optimizer = sparsity.with_static_mask(optax.adamw(learning_rate), mask)

    def apply(params: PyTree, images: Array) -> Array:
        return Transformer(width).apply({"params": params}, images)  # type: ignore[return-value]

    def loss(params: PyTree, batch: Int[Array, " batch"]) -> Float[Array, ""]:
        logits = apply(params, images[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(carry: tuple, batch: Int[Array, " batch"]) -> tuple[tuple, None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, None]:
        full_batches = len(labels) // BATCH * BATCH
        order = jax.random.permutation(key, len(labels))[:full_batches].reshape(-1, BATCH)
        return jax.lax.scan(step, carry, order)

    keys = jax.random.split(jax.random.fold_in(key, 1), epochs)
    (params, _), _ = jax.lax.scan(epoch, (params, optimizer.init(params)), keys)
    return (apply(params, test[0]).argmax(-1) == test[1]).mean()


def measure(digits: Digits, width: int, budget: dict[str, Any], settings: Settings) -> Row:
    """Weights and test accuracies of the networks of one width and budget, with a mask per seed."""
    shapes = jax.eval_shape(lambda: initial(width, jax.random.key(0), digits.train_images))
    keys = [jax.random.key(seed) for seed in range(settings.seeds)]
    masks = [sparsity.random_mask(shapes, key=jax.random.fold_in(key, 2), **budget) for key in keys]
    weights = sum(sparsity.num_kept(masks[0]).values())
    size = sum(sparsity.num_kept(sparsity.random_mask(shapes, key=keys[0], connectivity=1.0)).values())

    def accuracy(key: PRNGKeyArray, mask: PyTree) -> Float[Array, ""]:
        return train(width, digits, settings.epochs, settings.learning_rate, key, mask)

    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *masks)
    test = np.asarray(jax.jit(jax.vmap(accuracy))(jnp.stack(keys), stacked), float)
    return {
        "width": width,
        "connectivity": weights / size,
        "weights": weights,
        "seeds": settings.seeds,
        "test_accuracy_mean": test.mean(),
        "test_accuracy_std": test.std(ddof=1) if settings.seeds > 1 else 0.0,
        "test": test,
    }


def family(digits: Digits, settings: Settings) -> list[Row]:
    """The narrow, dense network first; then each wider network, sparse with as many weights, and dense."""
    base = jax.eval_shape(lambda: initial(settings.base_width, jax.random.key(0), digits.train_images))
    dense = {"connectivity": 1.0}
    rows = [{"kind": "dense"} | measure(digits, settings.base_width, dense, settings)]
    for width in sorted(settings.widths):
        rows.append({"kind": "sparse"} | measure(digits, width, {"like": base}, settings))
        rows.append({"kind": "dense"} | measure(digits, width, dense, settings))
    return rows


def draw(rows: Sequence[Row]) -> Figure:
    """Test accuracy over width at the narrow network's weights, and of dense networks."""
    base, dense = rows[0], [row for row in rows if row["kind"] == "dense"]
    sparse = [base, *(row for row in rows if row["kind"] == "sparse")]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    _curve(axes, dense, color="#999999", linestyle=":", label="dense (labels: weights)")
    _curve(axes, sparse, color="#2f6397", label=f"{base['weights']:,} weights each (labels: connectivity)")
    for row in dense:
        _annotate(axes, row, f"{row['weights']:,}", -12)
    for row in sparse[1:]:
        _annotate(axes, row, f"{row['connectivity']:.2g}", 8)
    axes.set_xscale("log", base=2)
    axes.set_xticks([row["width"] for row in dense], [str(row["width"]) for row in dense])
    axes.margins(x=0.08)
    axes.set(xlabel=PLOT.xlabel, ylabel=PLOT.ylabel)
    axes.set_title(f"a transformer block on digits, AdamW, {base['seeds']} seeds", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    return figure


def _curve(axes: Axes, rows: Sequence[Row], **style: Any) -> None:
    names = (PLOT.x, PLOT.y, "test_accuracy_std")
    width, mean, deviation = np.array([[row[name] for name in names] for row in rows]).T
    axes.errorbar(width, 100 * mean, 100 * deviation, marker="o", capsize=3, **style)


def _annotate(axes: Axes, row: Row, text: str, offset: int) -> None:
    at = (row["width"], 100 * row["test_accuracy_mean"])
    axes.annotate(text, at, xytext=(7, offset), textcoords="offset points", fontsize=8)


def verdict(rows: Sequence[Row]) -> list[str]:
    """The gain of every wide, sparse network over the narrow, dense one of the same number of weights."""
    base = rows[0]
    gains = [(row, difference(row["test"], base["test"])) for row in rows if row["kind"] == "sparse"]
    return [
        f"wide beats narrow at {row['weights']} weights: {sign(gain)}: width {row['width']}"
        f" against {base['width']}: {gain.show(100)} points"
        for row, gain in gains
    ]


def main(settings: Settings, run: Output) -> None:
    rows = family(digits(), settings)
    output.print_table(rows, COLUMNS)
    launch.publish(run, EXPERIMENT, rows, COLUMNS, draw(rows), PLOT, [*verdict(rows), METHOD])


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
