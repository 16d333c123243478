"""A step of recurrent networks against PyTorch, of one network and of ten.

Forward, backward and SGD on 32 windows of 32 characters of 65, with the hidden state carried over. Ours runs ten
networks as one program, PyTorch one after another. Its LSTM (two layers) is `torch.nn.LSTM`, its recurrent highway
network (depth 2) a scan by `torch.jit.script`. FLOPs are those of the products, three times the forward pass;
`fraction` is relative to the device's matrix-product rate.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.settings import Report, Settings, epoch, interleaved, progress, torch
from experiments.lab import output
from experiments.lab.plots import tidy
from wsn.data.language.text import Text
from wsn.networks import models
from wsn.records import plan
from wsn.sparsity.shapes import weights
from wsn.spec import Group, Spec
from wsn.training import train

SYMBOLS, LANES, SEQUENCE, RATE = 65, 32, 32, 0.1
LAYERS, DEPTH, GATE_BIAS = 2, 2, -1.0
NAMES = {"lstm": "LSTM", "rhn": "recurrent highway network"}


def network(model: str, width: int) -> Spec:
    """A dense network that trains for one pass over the text."""
    return Spec(
        dataset="random",
        task="characters",
        model=model,
        width=width,
        epochs=1,
        batch_size=LANES,
        sequence=SEQUENCE,
        learning_rate=RATE,
        **({"hidden_layers": LAYERS} if model == "lstm" else {"depth": DEPTH, "gate_bias": GATE_BIAS}),
    )


def flops(spec: Spec) -> float:
    """FLOPs of the products of a step; an embedding has none."""
    shapes = models.plain_shapes(spec, (), SYMBOLS)
    return 6.0 * (weights(shapes) - SYMBOLS * spec.width) * LANES * SEQUENCE


def wsn_steps(spec: Spec, members: int, steps: int) -> Callable[[], None]:
    """`steps` steps as `wsn.training` runs them."""
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, steps * LANES * SEQUENCE + 1).astype(np.uint16)
    symbols = tuple(map(str, range(SYMBOLS)))
    text = Text("random", tokens, tokens[: SEQUENCE + 1], symbols, SEQUENCE)
    return epoch(train.prepare(Group((spec,), tuple(range(members))), text))


def torch_steps(spec: Spec, members: int, steps: int) -> Callable[[], None] | None:
    """The same in PyTorch on the same device, network by network; None where PyTorch is not installed."""
    if (pt := torch()) is None:
        return None
    device = "cuda" if jax.default_backend() == "gpu" and pt.cuda.is_available() else "cpu"
    networks = [torch_network(spec).to(device) for _ in range(members)]
    optimizers = [pt.optim.SGD(network.parameters(), RATE) for network in networks]
    zeros = pt.zeros(LANES, spec.width, device=device)
    states: list[Any] = [(pt.stack([zeros] * LAYERS),) * 2 if spec.model == "lstm" else zeros] * members
    tokens = pt.randint(0, SYMBOLS, (steps, SEQUENCE + 1, LANES), device=device)

    def step(i: int, window: Any) -> None:
        embedding, core, softmax = networks[i]
        optimizers[i].zero_grad(set_to_none=True)
        y, states[i] = core(embedding(window[:-1]), jax.tree.map(lambda x: x.detach(), states[i]))
        loss = pt.nn.functional.cross_entropy(softmax(y).flatten(0, 1), window[1:].flatten())
        loss.backward()
        optimizers[i].step()

    def run() -> None:
        for window, i in itertools.product(tokens, range(members)):
            step(i, window)
        if device == "cuda":
            pt.cuda.synchronize()

    return run


def torch_network(spec: Spec) -> Any:
    """Embedding, recurrent layers, softmax."""
    nn, width = torch().nn, spec.width
    core = nn.LSTM(width, width, LAYERS) if spec.model == "lstm" else torch_highway(torch(), width)
    return nn.ModuleList([nn.Embedding(SYMBOLS, width), core, nn.Linear(width, SYMBOLS)])


def torch_highway(torch: Any, width: int) -> Any:
    """The recurrent highway network of depth 2, compiled; one product with the inputs of all time steps."""

    class Highway(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.entering = torch.nn.Linear(width, 2 * width)
            self.first = torch.nn.Linear(width, 2 * width, bias=False)
            self.second = torch.nn.Linear(width, 2 * width)

        def forward(self, x, state):  # unannotated: the script compiler then takes tensors
            entering, outputs = self.entering(x), []
            for now in entering.unbind(0):
                h, t = (now + self.first(state)).chunk(2, 1)
                state = state + torch.sigmoid(t - 1.0) * (torch.tanh(h) - state)
                h, t = self.second(state).chunk(2, 1)
                state = state + torch.sigmoid(t - 1.0) * (torch.tanh(h) - state)
                outputs.append(state)
            return torch.stack(outputs), state

    return torch.jit.script(Highway())


def measure_case(model: str, width: int, members: int, repeats: int) -> list[dict]:
    """A row for ours and one for PyTorch."""
    spec = network(model, width)
    steps = max(1, round(5e9 / (flops(spec) * members)))  # a tenth of a second, or one step
    candidates = {"wsn": wsn_steps(spec, members, steps)}
    if (theirs := torch_steps(spec, members, steps)) is not None:
        candidates["PyTorch"] = theirs
    rates: list[float] = []
    times = interleaved(candidates | {"rate": lambda: rates.append(plan.matrix_rate(0.2))}, repeats)
    arithmetic, rows = flops(spec) * members * steps, []
    for name in candidates:
        seconds = float(np.median(times[name]))
        row = {"network": model, "width": width, "members": members, "framework": name}
        row |= {
            "milliseconds": 1e3 * seconds / steps,
            "tokens_per_second": members * steps * LANES * SEQUENCE / seconds,
            "gflops": arithmetic / seconds / 1e9,
            "fraction": float(np.median(arithmetic / times[name] / np.array(rates[1:]))),
            "over_pytorch": float(np.median(times[name] / times["PyTorch"])) if theirs else float("nan"),
        }
        rows.append(row)
    return rows


def draw(rows: Sequence[dict]) -> Figure:
    """Our time relative to PyTorch, and the fraction of the matrix-product rate, over width."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    quantities = {"over_pytorch": "our time / PyTorch's", "fraction": "fraction of the matrix-product rate"}
    for axes, (column, label) in zip(panels, quantities.items(), strict=True):
        lines = itertools.product(NAMES, sorted({r["members"] for r in rows}), ("wsn", "PyTorch"))
        for i, case in enumerate(lines):
            model, members, framework = case
            line = [r for r in rows if (r["network"], r["members"], r["framework"]) == case]
            if not line or (column == "over_pytorch" and framework == "PyTorch"):
                continue
            style = "-" if framework == "wsn" else ":"
            name = f"{NAMES[model]}, {members}{'' if framework == 'wsn' else ', PyTorch'}"
            x, y = [r["width"] for r in line], [r[column] for r in line]
            axes.plot(x, y, style, color=f"C{i // 2}", marker="o", label=name)
        tidy(axes, [r["width"] for r in rows])
        axes.set(xlabel="width", ylabel=label, ylim=(0, None))
    panels[0].axhline(1.0, color="0.4", linewidth=0.8)
    panels[1].legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(f"A step of training, {output.machine()}")
    return figure


def measure(settings: Settings) -> Report:
    rows = []
    for case in itertools.product(NAMES, settings.widths or (64, 256, 1024), settings.members or (1, 10)):
        progress("{}, width {}, {} networks".format(*case))
        rows += measure_case(*case, settings.repeats)
    return Report(rows, draw(rows))
