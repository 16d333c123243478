"""Which way suits a network on this device: measured rules, stated in BUILD.md."""

import math

import jax

from wsn.errors import UserError
from wsn.native import library
from wsn.networks.layers import Model
from wsn.networks.models import has_convolutions
from wsn.networks.recurrent import EMBEDDING
from wsn.spec import Group

# How layers that lose weights are run: masked (dense products), sparse (what is kept), or as is faster here.
EXECUTIONS = ("auto", "masked", "sparse")
# Connectivity up to which the sums of the native kernels are faster than dense products.
LARGEST_CONNECTIVITY = 0.3

# Networks of more weights train one after the other: MLPs on a CPU (2 cores, step of 256 at 504,190 weights: 4.1 ms
# against 6.2 ms a network; at 171,504 weights together is better, 1.4 ms against 2.0 ms), and convolutions anywhere,
# since those of several networks become one grouped convolution, which pays only while the device is idle otherwise.
LARGEST_TOGETHER = 300_000


def goes_step_by_step(model: Model) -> bool:
    """Whether Python loops over the steps: XLA runs the bodies of loops without its threaded convolutions on a CPU."""
    return jax.default_backend() == "cpu" and has_convolutions(model)


def trains_together(model: Model, weights: int) -> bool:
    """Whether the members of a group should share each step; `weights` that one of them multiplies with."""
    large = weights >= LARGEST_TOGETHER
    return not large or (jax.default_backend() != "cpu" and not has_convolutions(model))


def multiplied_weights(group: Group, model: Model, sparse: tuple[str, ...]) -> int:
    """With how many weights the largest network of a group multiplies: removed ones count where a layer is masked."""
    return max(
        sum(
            dict(spec.kept).get(layer, math.prod(shape)) if layer in sparse else math.prod(shape)
            for layer, shape in model.shapes.items()
        )
        for spec in group.specs
    )


def sparse_layers(group: Group, model: Model, execution: str) -> tuple[str, ...]:
    """The layers of a group that are run sparse, of those in which a network loses weights.

    An embedding reads rows, so it stays as it is. Raises UserError for an unknown way.
    """
    if execution not in EXECUTIONS:
        raise UserError(f"--execution={execution} is unknown: choose one of {', '.join(EXECUTIONS)}")
    kept = [dict(spec.kept) for spec in group.specs]
    connectivity = {
        layer: max(counts.get(layer, math.prod(shape)) for counts in kept) / math.prod(shape)
        for layer, shape in model.shapes.items()
        if layer != EMBEDDING
    }
    if execution == "auto":
        found = tuple(layer for layer, c in connectivity.items() if c <= LARGEST_CONNECTIVITY)
        cpu = (
            jax.default_backend() == "cpu" and jax.process_count() == 1
        )  # several could not agree on a compiler
        fast = found and cpu and group.specs[0].compute_dtype == "float32" and library.available()
        return found if fast else ()
    losing = {layer for counts in kept for layer, n in counts.items() if n < math.prod(model.shapes[layer])}
    return tuple(layer for layer in connectivity if layer in losing) if execution == "sparse" else ()
