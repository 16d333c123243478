"""Families: one weight budget → specs of growing width with that many weights, and dense ones for comparison.

There are three ways to widen (paper, Figure 2): `sparse`, `linear_bottleneck` and `nonlinear_bottleneck`. All raise
UserError for a width that is listed twice, below the base width, or too wide for the budget.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from wsn.errors import UserError
from wsn.sparsity import bottleneck, budget, patterns
from wsn.sparsity.shapes import Shapes, sizes, weights
from wsn.spec import Spec

ShapesOfWidth = Callable[[int], Shapes]

# Groups of layers that lose no weights unless `sparsify` names groups: their size depends on the vocabulary.
WHOLE = ("embedding", "softmax")


def check_widths(base_width: int, widths: Sequence[int]) -> None:
    """Raises UserError for a width that is listed twice, or below the base width."""
    for width in widths:
        if width < base_width:
            raise UserError(
                f"`widths`: {width} is below the base width {base_width}: a network of the same weight count is at"
                " least as wide; take larger widths or a smaller `base_width`"
            )
    if len(set(widths)) != len(widths):
        raise UserError(f"`widths={','.join(map(str, widths))}` lists a width twice")


def sparse(
    template: Spec,
    base_width: int,
    widths: Sequence[int],
    shapes: ShapesOfWidth,
    distribution: str,
    whole: Collection[str] = (),
    *,
    count_whole: bool = True,
) -> list[Spec]:
    """Sparse networks, each with the weight count of the dense network of `base_width`.

    Layers of `whole` lose no weights; without `count_whole` the others alone keep the count. A pattern that cannot keep
    any count may leave a few weights of the budget over.
    """
    check_widths(base_width, widths)
    base = sizes(shapes(base_width))
    specs = []
    for width in widths:
        counted = base if count_whole else base | {layer: sizes(shapes(width))[layer] for layer in whole}
        total = sum(counted.values())
        try:
            kept = budget.kept_counts(distribution, shapes(width), total, whole)
            kept = patterns.rounded(template.mask, kept, shapes(width))
        except UserError as error:
            arguments = f"`widths={width}`, `sparsify`" if whole else f"`widths={width}`"
            raise UserError(f"{arguments}: {error}") from None
        specs.append(with_kept(template, width, kept, shapes(width)))
    return specs


def whole_layers(groups: Mapping[str, str], sparsify: Sequence[str] = ()) -> tuple[str, ...]:
    """The layers that lose no weights: those outside the groups of `sparsify`, by default those of `WHOLE`.

    `groups` has the group of every layer. Raises UserError for a group that the network does not have.
    """
    known = tuple(dict.fromkeys(groups.values()))
    if unknown := [name for name in sparsify if name not in known]:
        raise UserError(f"`sparsify={unknown[0]}` is unknown: this network has {', '.join(known)}")
    whole = set(known) - set(sparsify) if sparsify else set(WHOLE)
    return tuple(layer for layer, group in groups.items() if group in whole)


def linear_bottleneck(
    template: Spec, base_width: int, widths: Sequence[int], shapes: ShapesOfWidth
) -> list[Spec]:
    """Networks with linear bottlenecks in all layers, each with about the weight count of that of `base_width`.

    That one has inner dimensions min(inputs, outputs), so more weights than the dense network of the base width.
    """
    check_widths(base_width, widths)
    inner = {width: bottleneck.linear(shapes(base_width), shapes(width)) for width in widths}
    return [with_inner(template, width, "linear", inner[width], shapes(width)) for width in widths]


def nonlinear_bottleneck(
    template: Spec,
    base_width: int,
    widths: Sequence[int],
    shapes: ShapesOfWidth,
    narrowed: Callable[[Sequence[str]], Sequence[str]],
) -> list[Spec]:
    """Networks in which every other layer is narrow, each with about the weight count of the dense base network.

    `narrowed` chooses among the layers those whose outputs shrink, no two of them adjacent; it may raise UserError for
    too few layers.
    """
    check_widths(base_width, widths)
    base = shapes(base_width)
    chosen = narrowed(tuple(base))
    inner = {width: bottleneck.nonlinear(base, shapes(width), chosen) for width in widths}
    return [with_inner(template, width, "nonlinear", inner[width], shapes(width)) for width in widths]


def dense(template: Spec, widths: Sequence[int]) -> list[Spec]:
    """The dense networks of those widths."""
    return [dataclasses.replace(template, width=width, kept=()) for width in widths]


def with_kept(template: Spec, width: int, kept: Mapping[str, int], shapes: Shapes) -> Spec:
    """The spec of that width and kept counts; a network that keeps everything is the dense one."""
    kept = {} if kept == sizes(shapes) else kept
    return dataclasses.replace(template, width=width, kept=tuple(kept.items()))


def with_inner(template: Spec, width: int, kind: str, inner: Mapping[str, int], shapes: Shapes) -> Spec:
    """The spec of that width and bottlenecks; a network that they leave unchanged is the dense one."""
    spec = dataclasses.replace(template, width=width, kept=())
    if bottleneck.transformed(shapes, kind, inner) == shapes:
        return spec
    return dataclasses.replace(spec, bottleneck=kind, inner=tuple(inner.items()))


def kept_weights(spec: Spec, shapes: Shapes) -> int:
    """How many weights the network of a spec has; `shapes` are its kernels, or those without bottlenecks."""
    if spec.kept:
        return sum(dict(spec.kept).values())
    return weights(bottleneck.transformed(shapes, spec.bottleneck, dict(spec.inner)))


def connectivity(spec: Spec, shapes: Shapes) -> float:
    """Kept weights over the weights of the dense network of the same width (paper, section 2.3), which has `shapes`."""
    return kept_weights(spec, shapes) / weights(shapes)
