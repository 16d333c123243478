"""A step of networks that read text against PyTorch, of one network and of ten.

Forward, backward and SGD on 32 windows of characters of 65: windows of 32 with the hidden state carried over for
recurrent networks, of 64 for the transformer. Ours runs ten networks as one program, PyTorch one after another. Its
LSTM (two layers) is `torch.nn.LSTM`, its recurrent highway network (depth 2) a scan by `torch.jit.script`, its
transformer (two blocks, heads of 16) uses `scaled_dot_product_attention`. FLOPs are those of the products, three times
the forward pass; `fraction` is relative to the device's matrix-product rate.
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

SYMBOLS, LANES, RATE = 65, 32, 0.1
LAYERS, DEPTH, GATE_BIAS, HEAD_DIM = 2, 2, -1.0, 16
NAMES = {"lstm": "LSTM", "rhn": "recurrent highway network", "transformer": "transformer"}
WIDTHS = {"lstm": (64, 256, 1024), "rhn": (64, 256, 1024), "transformer": (64, 256)}


def network(model: str, width: int) -> Spec:
    """A dense network that trains for one pass over the text."""
    fields: dict[str, dict[str, Any]] = {
        "lstm": {"hidden_layers": LAYERS},
        "rhn": {"depth": DEPTH, "gate_bias": GATE_BIAS},
        "transformer": {"hidden_layers": LAYERS, "head_dim": HEAD_DIM},
    }
    return Spec(
        dataset="random",
        task="characters",
        model=model,
        width=width,
        epochs=1,
        batch_size=LANES,
        sequence=64 if model == "transformer" else 32,
        learning_rate=RATE,
        **fields[model],
    )


def flops(spec: Spec) -> float:
    """FLOPs of the products of a step, those of attention without a causal mask; an embedding has none."""
    multiplied = weights(models.plain_shapes(spec, (), SYMBOLS)) - SYMBOLS * spec.width
    if spec.model == "transformer":
        multiplied += 2 * spec.sequence * spec.width * spec.hidden_layers
    return 6.0 * multiplied * LANES * spec.sequence


def wsn_steps(spec: Spec, members: int, steps: int) -> Callable[[], None]:
    """`steps` steps as `wsn.training` runs them."""
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, steps * LANES * spec.sequence + 1)
    tokens, symbols = tokens.astype(np.uint16), tuple(map(str, range(SYMBOLS)))
    text = Text("random", tokens, tokens[: spec.sequence + 1], symbols, spec.sequence)
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
    tokens = pt.randint(0, SYMBOLS, (steps, spec.sequence + 1, LANES), device=device)

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
    """Embedding, core, softmax. The core maps (inputs, state) to (outputs, state)."""
    nn, width = torch().nn, spec.width
    if spec.model == "lstm":
        core = nn.LSTM(width, width, LAYERS)
    else:
        core = {"rhn": torch_highway, "transformer": torch_transformer}[spec.model](torch(), spec)
    bias = spec.model != "transformer"
    return nn.ModuleList([nn.Embedding(SYMBOLS, width), core, nn.Linear(width, SYMBOLS, bias=bias)])


def torch_highway(torch: Any, spec: Spec) -> Any:
    """The recurrent highway network of depth 2, compiled; one product with the inputs of all time steps."""
    width = spec.width

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


def torch_transformer(torch: Any, spec: Spec) -> Any:
    """The blocks of the transformer and the last normalization; `torch.compile` would save 10 to 20 %."""
    nn, F, width, heads = torch.nn, torch.nn.functional, spec.width, spec.width // HEAD_DIM
    turns = 10_000.0 ** (-torch.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    angles = torch.arange(spec.sequence)[:, None] * turns
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: Any) -> Any:
        left, right = x.chunk(2, -1)
        return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)

    class Block(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.RMSNorm(width, eps=1e-6) for _ in range(2)])
            sizes = (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)
            self.layers = nn.ModuleList([nn.Linear(*size, bias=False) for size in sizes])

        def forward(self, x: Any) -> Any:
            qkv, out, wide, narrow = self.layers
            parts = qkv(self.norms[0](x)).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (heads, HEAD_DIM)).transpose(1, 2) for part in parts)
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + out(y.transpose(1, 2).flatten(2))
            return x + narrow(F.gelu(wide(self.norms[1](x)), approximate="tanh"))

    class Core(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            blocks = [Block() for _ in range(LAYERS)]
            self.layers = nn.Sequential(*blocks, nn.RMSNorm(width, eps=1e-6))

        def forward(self, x: Any, state: Any) -> Any:
            return self.layers(x.transpose(0, 1)).transpose(0, 1), state

    return Core()


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
            "tokens_per_second": members * steps * LANES * spec.sequence / seconds,
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
    for model in settings.networks or NAMES:
        for case in itertools.product(settings.widths or WIDTHS[model], settings.members or (1, 10)):
            progress("{}, width {}, {} networks".format(model, *case))
            rows += measure_case(model, *case, settings.repeats)
    return Report(rows, draw(rows))
