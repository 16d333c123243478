"""Width separated from weights: the networks, their learning rates, and the traces of their tangent kernels.

In: settings. Out: dense networks, whose weights grow with width, and families with a fixed number of weights, in arms
that differ in the learning rate: one rate for all (as in the convergence paper), rate ∝ 1 / effective fan-in
(`rate_width`), a rate tuned per network, and one rate under SμPar.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.convergence import halting, path, settings, study
from experiments.convergence.halting import Curve, deviation, mean
from experiments.lab import flags, output, presets, tuning
from experiments.lab.families import Network, Row
from experiments.lab.launch import Run
from kernels.trace import traces
from wsn.data.feeds import Source
from wsn.data.language.text import Text
from wsn.data.splits import Splits
from wsn.errors import UserError, choose
from wsn.networks import models
from wsn.networks.layers import BatchWeights
from wsn.records import plan
from wsn.records.record import Result
from wsn.sparsity import family
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.spec import WIDEST, Group, Spec, setting
from wsn.training import optimizers
from wsn.training.state import initial_members

ARMS = {
    "one": "one rate",
    "fan_in": "rate ∝ 1 / fan-in",
    "tuned": "tuned rate",
    "smup": "one rate under SμPar",
}
FACTORS = 2.0 ** np.arange(-2, 6)  # of the learning rate, tried in tuning
SAMPLES, TRACED_SEEDS = 256, 3  # a trace is a mean over outputs and seeds
BATCH = 32  # inputs that share batch statistics, as in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(settings.Settings):
    """Dense networks, and for every base width a family of wider networks with the weights of the dense one."""

    base_widths: tuple[int, ...] = setting(
        "Widths of the dense networks whose weights are the budgets.", least=1, most=WIDEST
    )
    distribution: str = setting(
        "Distribution of a budget over layers.", "largest_first", choices=tuple(DISTRIBUTIONS)
    )
    sparsify: tuple[str, ...] = setting(
        "Groups of layers to make sparse, such as hidden,softmax; empty: all but embedding and softmax.", ()
    )
    counted: str = setting(
        "Layers whose weights are fixed: all, or those that become sparse (the others grow with the width).",
        "all",
        choices=("all", "sparse"),
    )
    arms: tuple[str, ...] = setting(
        f"Learning-rate rules, some of {', '.join(ARMS)}.", ("one", "fan_in", "tuned")
    )
    rate_width: int = presets.of_spec("rate_width")
    depth: int | None = presets.of_spec("depth", None)
    hidden_layers: int | None = presets.of_spec("hidden_layers", None)
    tuning_epochs: int = setting("Epochs per learning rate in tuning.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        settings.check_list("base_widths", self.base_widths)
        settings.check_list("arms", self.arms)
        if max(self.base_widths) > max(self.widths):
            raise UserError("`base_widths`: none may be above all of `widths`")
        for name in self.arms:
            choose(ARMS, "arms", name)
        if self.rate_width < 1:
            raise UserError("`rate_width`: give the width whose rates stay as they are, at least 1")


def template(preset: Preset) -> Spec:
    """The fields that all networks of a preset share; rates of the arms are set later."""
    return dataclasses.replace(study.template(preset), rate_width=0)


def networks(preset: Preset, run: Run) -> list[Network]:
    """All networks, at one learning rate: the dense ones, then every family. Raises UserError."""
    base = template(preset)
    source = run.source_of(base)
    samples(source, 1, 1)  # raises before training if the data cannot be traced

    def shapes(width: int):
        return study.shapes_of(source, dataclasses.replace(base, width=width))

    whole = family.whole_layers(models.groups_of(base, shapes(preset.widths[0])), preset.sparsify)
    networks = [
        Network(min(preset.widths), "dense", spec, preset.seeds) for spec in family.dense(base, preset.widths)
    ]
    for width in preset.base_widths:
        widths = sorted({width, *(wide for wide in preset.widths if wide > width)})
        members = family.sparse(
            base, width, widths, shapes, preset.distribution, whole, count_whole=preset.counted == "all"
        )
        networks += [Network(width, "sparse", spec, preset.seeds) for spec in members]
    return networks


def in_arms(preset: Preset, networks: Sequence[Network], tuned: dict[Spec, float]) -> list[Network]:
    """The networks in every arm whose learning rates are known, with a column for the arm."""

    def with_rates(spec: Spec, arm: str) -> Spec:
        if arm == "tuned":
            return dataclasses.replace(spec, learning_rate=tuned[spec])
        if arm == "smup":
            return dataclasses.replace(spec, parameterization="smup", rate_width=preset.rate_width)
        # For the dense network of `rate_width` both rules give the same rates.
        same = arm == "one" or (spec.width == preset.rate_width and not spec.kept)
        return spec if same else dataclasses.replace(spec, rate_width=preset.rate_width)

    return [
        network._replace(spec=with_rates(network.spec, arm), columns={"arm": arm})
        for arm in preset.arms
        if arm != "tuned" or tuned
        for network in networks
    ]


def tune(preset: Preset, networks: Sequence[Network], run: Run, experiment: str) -> dict[Spec, float]:
    """The learning rate of every network with the lowest validation loss after a few epochs; writes a table.

    Empty without the arm `tuned` and after a dry run. Raises UserError if every rate diverged.
    """
    if "tuned" not in preset.arms:
        return {}
    tried = {network.spec: (network, candidates(network.spec, preset.tuning_epochs)) for network in networks}
    tuned = tuning.search(tried, halting.LOSS, run, experiment, "arms=tuned") or {}
    rows = []
    for spec, (best, losses) in tuned.items():
        network, _ = tried[spec]
        row = {"kind": network.kind, "base_width": network.base_width, "width": spec.width}
        for rate, loss in losses.items():
            rows.append(row | {"learning_rate": rate, "validation_loss": loss, "chosen": int(rate == best)})
        if best in (min(losses), max(losses)):
            text = f"`arms=tuned`: rate {best:g} of width {spec.width} is the lowest or highest tried"
            print(flags.as_flags(text))
    if rows:
        output.write_table(run.folder, "learning_rates", rows, list(rows[0]))
    return {spec: best for spec, (best, _) in tuned.items()}


def candidates(spec: Spec, epochs: int) -> tuning.Candidates:
    """The network with each learning rate to try, for a few epochs."""
    short = dataclasses.replace(tuning.shortened(spec, epochs), stop="epochs", probes=())
    rates = [float(f"{spec.learning_rate * factor:.4g}") for factor in FACTORS]
    return tuple(dataclasses.replace(short, learning_rate=rate) for rate in rates)


def curves(networks: Sequence[Network], results: Sequence[Result], run: Run) -> list[Curve]:
    """A curve over width for every arm and family, of the networks with records; one common loss for all."""
    trained = {result.spec for result in results}
    traced = [
        network._replace(columns={**network.columns, "rate_trace": rate_trace(network.spec, run)})
        for network in networks
        if network.spec in trained
    ]
    return study.curves(
        traced, results, run, lambda n: (n.columns["arm"], n.kind, n.base_width), one_loss=True
    )


def rate_trace(spec: Spec, run: Run) -> float:
    """Trace of the initial tangent kernel, each parameter weighted by its learning rate; a mean over seeds."""
    plain, source = dataclasses.replace(spec, rate_width=0, learning_rate=1.0), run.source_of(spec)
    model = models.build(spec, source.input_shape, source.classes)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
    scalings = models.scalings(spec, model, params)
    return sum(
        spec.learning_rate * scalings[path].learning_rate * value
        for path, value in start_traces(plain, run).items()
    )


@cache
def start_traces(spec: Spec, run: Run) -> dict[str, float]:
    """`kernels.trace.traces` of the initial network, by parameter; means over held-out inputs and seeds."""
    source = run.source_of(spec)
    model = models.build(spec, source.input_shape, source.classes)
    group = Group((spec,), tuple(range(TRACED_SEEDS)))
    members = initial_members(group, model, optimizers.build(spec, optimizers.Horizon(1, 1)))
    stats = jax.tree.map(lambda x: x[0], members.state.stats)
    inputs = samples(source, SAMPLES, BATCH if stats else 1)

    def apply(params: Any, x: Array) -> Array:
        if not stats:
            return model.apply(params, {}, x)
        return model.apply_training(params, stats, x, BatchWeights(jnp.ones(len(x))))[0]

    size = jax.eval_shape(apply, jax.tree.map(lambda x: x[0], members.state.params), inputs[0]).size
    chosen = jax.random.randint(jax.random.key(1), (len(inputs),), 0, size)

    def member(params_and_mask: tuple[Any, Any]) -> dict[str, Array]:
        return traces(apply, *params_and_mask, inputs, chosen)

    by_seed = jax.jit(lambda members: jax.lax.map(member, members))((members.state.params, members.mask))
    return {path: float(x.mean()) for path, x in by_seed.items()}


def samples(source: Source, count: int, batch: int) -> Float[Array, "samples batch ..."] | Array:
    """Held-out inputs: windows of a text, or small batches of standardized images."""
    if isinstance(source, Text):
        first = jax.random.randint(jax.random.key(0), (count,), 0, len(source.held_out) - source.sequence)
        places = np.asarray(first)[:, None] + np.arange(source.sequence)
        return jnp.asarray(source.held_out[places], jnp.int32)[..., None]
    if not isinstance(source, Splits):
        raise UserError("`dataset`: this experiment reads only images and texts")
    rows = np.arange(len(source.validation_images))
    if batch > 1:
        rows = np.asarray(jax.random.permutation(jax.random.key(0), len(rows)))
    rows = np.resize(rows, (min(count, len(rows)), batch))
    return jnp.asarray((source.validation_images[rows] - source.mean) / source.std, jnp.float32)


def rows(curves: Sequence[Curve], run: Run) -> Iterator[Row]:
    """A row per network and arm: its description, its times, and the factors of its time."""
    for point in halting.points(curves):
        row = point.row | halting.summary(point, study.steps_of_epoch(point.spec, run))
        row["common_steps_far_mean"] = mean([run.common[1] for run in point.runs])
        group, source = Group((point.spec,), (0,)), run.source_of(point.spec)
        row["gflop_step"] = plan.cost(group, source, "sparse").step_flops / 1e9
        for name in path.FACTORS:
            values = [path.geometry(run, "all")[name] for run in point.certain]
            row |= {f"{name}_mean": mean(values), f"{name}_std": deviation(values)}
        yield row


def name(curve: Curve) -> str:
    """The name of a curve's family."""
    return "dense" if curve.row["kind"] == "dense" else f"{curve.row['weights']:,} weights"
