"""How fast recurrent networks train, as ratios within one run: ours against PyTorch, one network and ten.

    python -m experiments.benchmark_recurrent        # three minutes; PyTorch is compared if it is installed

A step is that of training: forward, backward, SGD, on 32 windows of 32 characters of 65, with the hidden state carried.
Ours as `wsn.training` runs it, ten networks as one program; PyTorch's ten one after the other. Its LSTM (two layers) is
`torch.nn.LSTM`, its recurrent highway network (depth 2) a scan by `torch.jit.script`. All candidates of one setting
take turns; medians. FLOPs are those of the products, three times the forward pass; `fraction` is that of the device's
own matrix-product rate, which is measured between them. Writes WORKDIR/benchmark_recurrent.csv and .png.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.benchmarks.timing import epoch, interleaved, tell
from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn.data.language.text import Text
from wsn.networks import models
from wsn.networks.models import TOKEN_MODELS
from wsn.records import plan
from wsn.sparsity.shapes import weights
from wsn.spec import WIDEST, Group, Spec, check_bounds, setting
from wsn.training import train

EXPERIMENT = "benchmark_recurrent"
COLUMNS = [
    "network",
    "width",
    "members",
    "framework",
    "milliseconds",
    "tokens_per_second",
    "gflops",
    "fraction",
    "over_pytorch",
]
SYMBOLS, LANES, SEQUENCE, RATE = 65, 32, 32, 0.1
LAYERS, DEPTH, GATE_BIAS = 2, 2, -1.0
NAMES = {"lstm": "LSTM", "rhn": "recurrent highway network"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured. Raises UserError for numbers out of range."""

    widths: tuple[int, ...] = setting(
        "Widths to measure, comma-separated.", (64, 256, 1024), least=1, most=WIDEST, some=True
    )
    members: tuple[int, ...] = setting(
        "Networks that train at once, comma-separated.", (1, 10), least=1, some=True
    )
    repeats: int = setting("Repeats of each measurement (medians are reported).", 3, least=3)
    threads: int = setting(
        "Threads of PyTorch; 0: as many as it takes. XLA has one for each core.", 0, least=0
    )

    def __post_init__(self) -> None:
        check_bounds(self)


def network(model: str, width: int) -> Spec:
    """The network of a setting, for one pass over the text."""
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
    """Of a step's products: an embedding has none."""
    shapes = models.plain_shapes(spec, (), SYMBOLS)
    return 6.0 * (weights(shapes) - SYMBOLS * spec.width) * LANES * SEQUENCE


def wsn_steps(spec: Spec, members: int, steps: int) -> Callable[[], None]:
    """So many steps as `wsn.training` runs them; the state goes on from call to call."""
    tokens = np.random.default_rng(0).integers(0, SYMBOLS, steps * LANES * SEQUENCE + 1).astype(np.uint16)
    symbols = tuple(map(str, range(SYMBOLS)))
    text = Text("random", tokens, tokens[: SEQUENCE + 1], symbols, SEQUENCE)
    return epoch(train.prepare(Group((spec,), tuple(range(members))), text))


def torch_steps(spec: Spec, members: int, steps: int, threads: int) -> Callable[[], None] | None:
    """The same in PyTorch on the same device, network by network; None where torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    if threads:
        torch.set_num_threads(threads)
    cuda = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    networks = [torch_network(torch, spec).to(device) for _ in range(members)]
    optimizers = [torch.optim.SGD(one.parameters(), RATE) for one in networks]
    states: list[Any] = [torch_state(torch, spec, device)] * members
    tokens = torch.randint(0, SYMBOLS, (steps, SEQUENCE + 1, LANES), device=device)

    def step(i: int, window: Any) -> None:
        embedding, core, softmax = networks[i]
        optimizers[i].zero_grad(set_to_none=True)
        y, states[i] = core(embedding(window[:-1]), jax.tree.map(lambda x: x.detach(), states[i]))
        loss = torch.nn.functional.cross_entropy(softmax(y).flatten(0, 1), window[1:].flatten())
        loss.backward()
        optimizers[i].step()

    def run() -> None:
        for window, i in itertools.product(tokens, range(members)):
            step(i, window)
        if cuda:
            torch.cuda.synchronize()

    return run


def torch_network(torch: Any, spec: Spec) -> Any:
    """Embedding, recurrent layers, softmax."""
    nn, width = torch.nn, spec.width
    core = nn.LSTM(width, width, LAYERS) if spec.model == "lstm" else torch_highway(torch, width)
    return nn.ModuleList([nn.Embedding(SYMBOLS, width), core, nn.Linear(width, SYMBOLS)])


def torch_state(torch: Any, spec: Spec, device: str) -> Any:
    """The state before the first token."""
    if spec.model == "lstm":
        return (torch.zeros(LAYERS, LANES, spec.width, device=device),) * 2
    return torch.zeros(LANES, spec.width, device=device)


def torch_highway(torch: Any, width: int) -> Any:
    """The recurrent highway network of depth 2, compiled; the product with the input is taken for all times at once."""

    class Highway(torch.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.entering = torch.nn.Linear(width, 2 * width)
            self.first = torch.nn.Linear(width, 2 * width, bias=False)
            self.second = torch.nn.Linear(width, 2 * width)

        def forward(self, x, state):  # unannotated, so that the script takes all for tensors
            entering, outputs = self.entering(x), []
            for now in entering.unbind(0):
                h, t = (now + self.first(state)).chunk(2, 1)
                state = state + torch.sigmoid(t - 1.0) * (torch.tanh(h) - state)
                h, t = self.second(state).chunk(2, 1)
                state = state + torch.sigmoid(t - 1.0) * (torch.tanh(h) - state)
                outputs.append(state)
            return torch.stack(outputs), state

    return torch.jit.script(Highway())


def measure(model: str, width: int, members: int, settings: Settings) -> list[dict]:
    """A row of ours, and one of PyTorch's."""
    spec = network(model, width)
    steps = max(1, round(5e9 / (flops(spec) * members)))  # a tenth of a second, or one step
    candidates = {"wsn": wsn_steps(spec, members, steps)}
    if (theirs := torch_steps(spec, members, steps, settings.threads)) is not None:
        candidates["PyTorch"] = theirs
    rates: list[float] = []
    times = interleaved(candidates | {"rate": lambda: rates.append(plan.matrix_rate(0.2))}, settings.repeats)
    arithmetic = flops(spec) * members * steps
    return [
        {
            "network": model,
            "width": width,
            "members": members,
            "framework": name,
            "milliseconds": 1e3 * float(np.median(times[name])) / steps,
            "tokens_per_second": members * steps * LANES * SEQUENCE / float(np.median(times[name])),
            "gflops": arithmetic / float(np.median(times[name])) / 1e9,
            "fraction": float(np.median(arithmetic / times[name] / np.array(rates[1:]))),
            "over_pytorch": float(np.median(times[name] / times["PyTorch"])) if theirs else float("nan"),
        }
        for name in candidates
    ]


def draw(rows: Sequence[dict]) -> Figure:
    """Our time over PyTorch's, and the fraction of the matrix-product rate, over width."""
    figure = Figure(figsize=(8.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    quantities = {"over_pytorch": "our time / PyTorch's", "fraction": "fraction of the matrix-product rate"}
    for axes, (column, label) in zip(panels, quantities.items(), strict=True):
        lines = itertools.product(NAMES, sorted({r["members"] for r in rows}), ("wsn", "PyTorch"))
        for colour, (model, members, framework) in zip(range(99), lines, strict=False):
            found = [
                r for r in rows if (r["network"], r["members"], r["framework"]) == (model, members, framework)
            ]
            if not found or (column == "over_pytorch" and framework == "PyTorch"):
                continue
            style = "-" if framework == "wsn" else ":"
            name = f"{NAMES[model]}, {members}{'' if framework == 'wsn' else ', PyTorch'}"
            x, y = [r["width"] for r in found], [r[column] for r in found]
            axes.plot(x, y, style, color=f"C{colour // 2}", marker="o", label=name)
        axes.set_xscale("log", base=2)
        widths = sorted({r["width"] for r in rows})
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set(xlabel="width", ylabel=label, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(1.0, color="0.4", linewidth=0.8)
    panels[1].legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(f"A step of training, {output.machine()}")
    return figure


def main(settings: Settings, run: Output) -> None:
    rows = []
    for case in itertools.product(
        [name for name in NAMES if name in TOKEN_MODELS], settings.widths, settings.members
    ):
        print("{}, width {}, {} members …".format(*case), file=sys.stderr, flush=True)
        rows += measure(*case, settings)
    tell(run, EXPERIMENT, rows, COLUMNS, draw(rows))


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
