"""Trees of parameters by path, and short runs of them; for the tests of networks and tasks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from wsn.devices import Placement
from wsn.networks.sequence import lstm
from wsn.networks.sequence.recurrent import Weights
from wsn.training import train

DEVICES = tuple(jax.local_devices())
SINGLE = Placement("single", DEVICES[:1])


def flat(tree) -> dict:
    """Leaves by path, such as `hidden_0/kernel`; arrays as NumPy's."""
    leaves = flatten_dict(tree, sep="/")
    return {path: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf for path, leaf in leaves.items()}


def nested(leaves, dtype=jnp.float32):
    return unflatten_dict({path: jnp.asarray(x, dtype) for path, x in leaves.items()}, sep="/")


def random_trees(model, scale) -> list[dict[str, np.ndarray]]:
    """(parameters, statistics) by path in float64, normal times scale(path, shape); those that divide positive."""
    random, trees = np.random.default_rng(0), []
    for tree in jax.eval_shape(model.init, jax.random.key(0)):
        leaves = {path: random.normal(size=x.shape) * scale(path, x.shape) for path, x in flat(tree).items()}
        positive = ("scale", "variance")
        trees.append({path: 0.5 + abs(x) if path.endswith(positive) else x for path, x in leaves.items()})
    return trees


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(kernel, bias, h, c, x):
    """The next (h, c) of an LSTM."""
    i, f, g, o = np.split(np.concatenate([x, h], -1) @ kernel + bias, 4, axis=-1)
    c = sigmoid(f + lstm.FORGET_BIAS) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def convolve(x, kernel, strides):
    """Of images (batch, rows, columns, inputs), padded by half a kernel of zeros; `strides`: one number, or two."""
    rows, columns = kernel.shape[:2]
    padded = np.pad(x, ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0)))
    down, across = np.broadcast_to(strides, 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(1, 2))
    return np.einsum("bhwiyx,yxio->bhwo", windows[:, ::down, ::across], kernel)


def batch_over(devices: int) -> Placement:
    return Placement("batch" if devices > 1 else "single", DEVICES[:devices])


def fit(group, source, placement=SINGLE, resume=None, steps=None, rows=None):
    """(curves, snapshot) after so many steps or rows of the history, or at the end."""
    for point in train.train(group, source, placement=placement, resume=resume):
        if point.history.rows == rows or point.step == (
            point.steps if rows is None and steps is None else steps
        ):
            return point.history.curves, point.snapshot()
    raise AssertionError("training ended before")


def lstm_weights(module, name: str) -> Weights:
    """Kernel and bias of a layer of a PyTorch LSTM, such as `l0` or `l0_reverse`, as ours."""
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_x, w_h, b_x, b_h = (getattr(module, f"{part}_{name}").detach().numpy() for part in parts)
    bias = b_x + b_h
    bias[module.hidden_size : 2 * module.hidden_size] -= lstm.FORGET_BIAS
    return Weights(jnp.asarray(np.hstack([w_x, w_h]).T), jnp.asarray(bias))
