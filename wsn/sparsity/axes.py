"""Which dimensions of a parameter are inputs and which are outputs, where it has more than two.

`Axes.roles` has a letter per dimension: `i` input, `o` output, `t` tap (a pixel of a convolution), `l` layer (of layers
that `scan` or `vmap` stacks). A dense layer is `io`, a convolution `ttio`, a query of attention `ioo`.
"""

import math
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax import nnx, struct
from flax.core import meta
from jaxtyping import Bool

from wsn.errors import UserError
from wsn.sparsity.masks import by_path
from wsn.sparsity.shapes import GroupedShape

LARGEST_WINDOW = (
    11  # a kernel of four dimensions that begin with so many taps on each side, or fewer, is a convolution
)


class Axes(NamedTuple):
    """The role of every dimension, and the number of groups that a convolution has (`feature_group_count`)."""

    roles: str
    groups: int = 1


AxesOf = Callable[[str, Any], Axes | str | None]  # (path, leaf) → its axes, or None where it does not know


class View(NamedTuple):
    """A parameter as `layers` kernels of `shape`, (*taps, inputs, outputs): its dimensions in another `order`."""

    layers: int
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def restore(
        self, kernels: Bool[np.ndarray, "layers ..."], shape: tuple[int, ...]
    ) -> Bool[np.ndarray, "..."]:
        """The array of the parameter's `shape` from those of its kernels."""
        ordered = kernels.reshape([shape[dimension] for dimension in self.order])
        return np.transpose(ordered, np.argsort(self.order))


def view(path: str, shape: tuple[int, ...], axes: Axes) -> View:
    """A parameter by the roles of its dimensions. Raises UserError for roles that do not fit its shape."""
    roles, groups = axes
    if len(roles) != len(shape) or set(roles) - set("lito"):
        raise UserError(
            f"`axes`: {path} of shape {shape} needs a letter of l, t, i, o per dimension, not {roles!r}"
        )
    if not set(roles) & set("io"):
        roles = roles.replace("l", "o")
    order = {role: tuple(d for d, letter in enumerate(roles) if letter == role) for role in "ltio"}
    sizes = {role: math.prod(shape[d] for d in order[role]) for role in "lio" if order[role]}
    kernel = (*(shape[d] for d in order["t"]), *(sizes[role] for role in "io" if role in sizes))
    if groups < 1 or kernel[-1] % groups:
        raise UserError(f"`axes`: {path} of shape {shape} cannot have {groups} groups")
    kernel = GroupedShape(kernel, groups) if groups > 1 else kernel
    return View(sizes.get("l", 1), kernel, sum(order.values(), ()))


def known_axes(axes: AxesOf | None, leaves: Mapping[str, Any], path: str) -> Axes | None:
    """What `axes` says of a leaf, else what its shape and Flax's names say; None where neither does."""
    said = axes and axes(path, leaves[path])
    if isinstance(said, str):
        said = Axes(said)
    return said or _by_name(leaves, path)


def _by_name(leaves: Mapping[str, Any], path: str) -> Axes | None:
    shape, layer = leaves[path].shape, path.rpartition("/")[0]
    if len(shape) < 3:
        return Axes("io"[-len(shape) :])
    name = layer.rpartition("/")[2]
    query, out = (
        getattr(leaves.get(f"{layer.removesuffix(name)}{part}/kernel"), "shape", ())
        for part in ("query", "out")
    )
    stack = len(shape) - 3  # of attention in stacked layers, in Flax's default order
    if (
        name in ("query", "key", "value", "out")
        and len(shape) == len(query) == len(out) <= 4
        and query[stack + 1 :] == out[stack:-1]
    ):
        return Axes("l" * stack + ("iio" if name == "out" else "ioo"))
    square = len(shape) == 4 and shape[0] == shape[1] <= LARGEST_WINDOW
    named = any("conv" in part for part in path.lower().split("/")[-2:])
    return Axes("t" * (len(shape) - 2) + "io") if square or named else None


def linen_axes(module: nn.Module, *args: Any, **kwargs: Any) -> AxesOf:
    """Axes of a linen network, as its layers say, in loops of `nn.scan` and `nn.vmap` too.

    The arguments are those of `module.init`, which is traced for shapes alone. Parameters of three and more dimensions
    that are in no layer of Flax are left to the caller: None.
    """
    arrays = {
        at: arg for at, arg in enumerate(args) if all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(arg))
    }

    def init(arrays: dict[int, Any]) -> Any:
        return module.init(*(arrays.get(at, arg) for at, arg in enumerate(args)), **kwargs)

    with nn.intercept_methods(_mark_parameters):
        variables = jax.eval_shape(init, arrays)
    table = {path: leaf.axes for path, leaf in by_path(variables.get("params", {}), _Marked).items()}
    return lambda path, leaf: table.get(path.removeprefix("params/"))


class _Marked(struct.PyTreeNode, meta.AxisMetadata):  # type: ignore[misc]
    """A parameter with its axes, to which transformations of Flax add those that they stack."""

    value: Any
    roles: str = struct.field(pytree_node=False)
    groups: int = struct.field(pytree_node=False)

    @property
    def axes(self) -> Axes | None:
        return None if "?" in self.roles else Axes(self.roles, self.groups)

    def unbox(self) -> Any:
        return self.value

    def replace_boxed(self, val: Any) -> "_Marked":
        return self.replace(value=val)  # type: ignore[attr-defined]

    def add_axis(self, index: int, params: Any) -> "_Marked":
        index %= len(self.roles) + 1
        return self.replace(roles=f"{self.roles[:index]}l{self.roles[index:]}")  # type: ignore[attr-defined]

    def remove_axis(self, index: int, params: Any) -> "_Marked":
        index %= len(self.roles)
        return self.replace(roles=self.roles[:index] + self.roles[index + 1 :])  # type: ignore[attr-defined]


def _mark_parameters(next_method: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    """Interceptor of a module's methods: its parameters are initialized to marked ones."""
    module = context.module

    def param(name: str, init: Callable, *init_args: Any, **init_kwargs: Any) -> Any:
        def marked(*args: Any, **kwargs: Any) -> _Marked:
            value = meta.unbox(init(*args, **kwargs))
            return _Marked(value, *_linen_axes(module, name, np.ndim(value), call))

        return type(module).param(module, name, marked, *init_args, **init_kwargs)

    call = kwargs.get("einsum_str", args[1] if len(args) > 1 else None)
    object.__setattr__(module, "param", param)  # linen's modules are frozen, and live for this call
    return next_method(*args, **kwargs)


def _linen_axes(module: nn.Module, name: str, dimensions: int, einsum: Any) -> Axes:
    """Axes of a parameter of a layer, as yet unstacked; '?' where that is unknown."""
    if name == "kernel":
        match module:
            case nn.DenseGeneral():
                batch, inputs, outputs = map(_length, (module.batch_dims, module.axis, module.features))
                return Axes("l" * batch + "i" * inputs + "o" * outputs)
            case nn.Einsum():
                return Axes(_einsum_roles(einsum or module.einsum_str))
            case nn.ConvLocal():  # a kernel for every pixel of the output
                return Axes("o" * (dimensions - 2) + "io")
            case nn.Conv():
                return Axes("t" * (dimensions - 2) + "io", module.feature_group_count)
            case nn.ConvTranspose():
                return Axes("t" * (dimensions - 2) + ("oi" if module.transpose_kernel else "io"))
    return Axes("io"[2 - dimensions :] if dimensions <= 2 else "?" * dimensions)


def nnx_axes(model: nnx.Module) -> AxesOf:
    """Axes of an nnx network, as its layers say; dimensions that a layer does not have are those of a stack.

    Where several of its dimensions could be that of the stack it is the first, as `nnx.vmap` and `nnx.scan` have it.
    Parameters of three and more dimensions that are in no layer of Flax are left to the caller: None.
    """
    table: dict[str, tuple[Axes, tuple[int, ...]]] = {}
    for path, module in nnx.iter_modules(model):
        for name, roles, shape in _nnx_layers(module):
            table["/".join(map(str, (*path, name)))] = roles, shape

    def axes(path: str, leaf: Any) -> Axes | None:
        layer = table.get(path)
        return layer and _stacked(*layer, leaf.shape)

    return axes


def _nnx_layers(module: nnx.Module) -> list[tuple[str, Axes, tuple[int, ...]]]:
    """(parameter, its axes, its shape without a stack) of a layer."""
    match module:
        case nnx.Linear():
            return [("kernel", Axes("io"), (module.in_features, module.out_features))]
        case nnx.LinearGeneral():
            parts = tuple(module.batch_axis.values()), module.in_features, module.out_features
            roles = "".join(role * len(part) for role, part in zip("lio", parts, strict=True))
            return [("kernel", Axes(roles), sum(parts, ()))]
        case nnx.Einsum():
            return [("kernel", Axes(_einsum_roles(module.einsum_str)), tuple(module.kernel_shape))]
        case nnx.Conv():
            roles = "t" * len(module.kernel_size) + "io"
            return [("kernel", Axes(roles, module.feature_group_count), module.kernel_shape)]
        case nnx.ConvTranspose():
            roles = "t" * (len(module.kernel_shape) - 2) + ("oi" if module.transpose_kernel else "io")
            return [("kernel", Axes(roles), module.kernel_shape)]
        case nnx.Embed():
            return [("embedding", Axes("io"), (module.num_embeddings, module.features))]
        case nnx.LoRA():
            rank = module.lora_a.shape[-1]  # that of a layer unless the stack is last
            shapes = {"lora_a": (module.in_features, rank), "lora_b": (rank, module.out_features)}
            return [(name, Axes("io"), shape) for name, shape in shapes.items()]
    return []


def _stacked(axes: Axes, layer: tuple[int, ...], shape: tuple[int, ...]) -> Axes | None:
    """The axes of a parameter of `shape` in stacked layers; None where no dimensions of it are those of the layer."""
    for kept in combinations(range(len(shape) - 1, -1, -1), len(layer)):  # the last ones first
        kept = kept[::-1]
        if all(size == shape[d] for d, size in zip(kept, layer, strict=True)):
            roles = dict(zip(kept, axes.roles, strict=True))
            return axes._replace(roles="".join(roles.get(d, "l") for d in range(len(shape))))
    return None


def _einsum_roles(equation: str | None) -> str:
    """The roles of the second operand: summed over, in the result, or in all three."""
    given, kernel, result = (equation or ",->").replace(" ", "").replace("->", ",").split(",")
    return "".join("i" if x not in result else "l" if x in given else "o" for x in kernel)


def _length(axes: Any) -> int:
    return 1 if isinstance(axes, int) else len(axes)
