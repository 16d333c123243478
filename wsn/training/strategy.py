"""Which way suits a network on this device: measured rules, stated in BUILD.md."""

import jax

from wsn.networks.layers import Model
from wsn.networks.models import has_convolutions
from wsn.sparsity.shapes import weights

# Networks of more weights train one after the other: MLPs on a CPU (2 cores, step of 256 at 504,190 weights: 4.1 ms
# against 6.2 ms a network; at 171,504 weights together is better, 1.4 ms against 2.0 ms), and convolutions anywhere,
# since those of several networks become one grouped convolution, which pays only while the device is idle otherwise.
LARGEST_TOGETHER = 300_000


def goes_step_by_step(model: Model) -> bool:
    """Whether Python loops over the steps: XLA runs the bodies of loops without its threaded convolutions on a CPU."""
    return jax.default_backend() == "cpu" and has_convolutions(model)


def trains_together(model: Model) -> bool:
    """Whether the members of a group should share each step.

    Recurrent networks never do on a CPU: their products are small and many, and several at once only fill the cache.
    """
    if model.recurrent and jax.default_backend() == "cpu":
        return False
    large = weights(model.shapes) >= LARGEST_TOGETHER
    return not large or (jax.default_backend() != "cpu" and not has_convolutions(model))
