"""Which way suits a network on this device: measured rules, stated in BUILD.md."""

import math
from collections.abc import Mapping

import jax

from wsn.errors import check_known
from wsn.native import library
from wsn.networks.layers import Model
from wsn.networks.models import has_convolutions
from wsn.networks.tokens import EMBEDDING
from wsn.sparsity.storage import has_storage
from wsn.spec import Group

# Networks of more weights train one after the other: MLPs on a CPU (2 cores, step of 256 at 504,190 weights: 4.1 ms
# against 6.2 ms a network; at 171,504 weights together is better, 1.4 ms against 2.0 ms), and convolutions anywhere,
# since those of several networks become one grouped convolution, which pays only while the device is idle otherwise.
LARGEST_TOGETHER = 300_000
# So do wider ones: what their layers put out is the most of their memory, and should be there once.
WIDEST_TOGETHER = 2**15
# How layers that lose weights are run: masked (dense products), sparse (what is kept), or as is faster here.
EXECUTIONS = ("auto", "masked", "sparse")
# Connectivity up to which native sums are faster than dense products on a CPU (one core, ten MLPs): Figure 8's step
# costs 0.9 of a masked one at 33 % and 0.8 at 24 % (batch 256), but 1.15 at 24 % and 0.7 at 12 % (batch 32).
# The dense layers of few outputs that go with them are spared the change of layout.
LARGEST_CONNECTIVITY = 0.25
MOST_OUTPUTS = 16
# Convolutions are faster even where they keep everything (ResNet-18, batch 128, one core: 0.4 of XLA's step at width 8,
# 0.5 at 18, 0.7 at 64). Of more weights their lists, of 24 bytes each, would take seconds to make.
MOST_LISTED = 4_000_000


def goes_step_by_step(model: Model) -> bool:
    """Whether Python loops over the steps: XLA runs the bodies of loops without its threaded convolutions on a CPU."""
    return jax.default_backend() == "cpu" and has_convolutions(model)


def trains_together(model: Model, width: int, weights: int) -> bool:
    """Whether the members of a group, of that width, should share each step; `weights` that one multiplies with.

    Those that scan time never do on a CPU: their products are small and many, and several at once only fill the cache.
    """
    if width > WIDEST_TOGETHER or (model.steps_through_time and jax.default_backend() == "cpu"):
        return False
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
    """The layers of a group that are run sparse: of those in which a network loses weights, or as is faster (auto).

    An embedding reads rows, so it stays as it is; so do convolutions that are not square. Raises UserError for an
    unknown way.
    """
    check_known(EXECUTIONS, "execution", execution)
    kept = [dict(spec.kept) for spec in group.specs]
    connectivity = {
        layer: max(counts.get(layer, math.prod(shape)) for counts in kept) / math.prod(shape)
        for layer, shape in model.shapes.items()
        if layer != EMBEDDING and has_storage(shape)
    }
    if execution == "auto":
        cpu = (
            jax.default_backend() == "cpu" and jax.process_count() == 1
        )  # several could not agree on a compiler
        found = (
            faster_sparse(model, connectivity) if cpu and group.specs[0].compute_dtype == "float32" else ()
        )
        return found if found and library.available() else ()
    losing = {layer for counts in kept for layer, n in counts.items() if n < math.prod(model.shapes[layer])}
    return tuple(layer for layer in connectivity if layer in losing) if execution == "sparse" else ()


def faster_sparse(model: Model, connectivity: Mapping[str, float]) -> tuple[str, ...]:
    """The layers that native sums are faster for. Convolutions go together, so that images keep one layout."""
    shapes = {layer: model.shapes[layer] for layer in connectivity}
    convolutions = {layer for layer, shape in shapes.items() if len(shape) > 2}
    found = {layer for layer in shapes.keys() - convolutions if connectivity[layer] <= LARGEST_CONNECTIVITY}
    if sum(connectivity[layer] * math.prod(shapes[layer]) for layer in convolutions) <= MOST_LISTED:
        found |= convolutions
    few = {layer for layer, shape in shapes.items() if len(shape) == 2 and shape[1] <= MOST_OUTPUTS}
    return tuple(layer for layer in shapes if layer in (found | few if found else found))
