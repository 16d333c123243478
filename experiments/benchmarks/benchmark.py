"""Speed, as ratios to the best simple alternative within one run.

    python -m experiments.benchmark                        # MLPs of Figure 8 against PyTorch; 3 minutes on 2 cores
    python -m experiments.benchmark --of=resnet            # a step of ResNet-18 against PyTorch
    python -m experiments.benchmark --of=recurrent         # a step of an LSTM, a highway network, a transformer
    python -m experiments.benchmark --of=sparse            # sparse against masked execution, by width; 15 minutes
    python -m experiments.benchmark --of=theory            # Theorem 1, exact, against Monte Carlo over masks
    python -m experiments.benchmark --of=input             # decoding of ImageNet images; a minute

Candidates run one after another in every repeat, so that other programs disturb all equally; medians are
reported. PyTorch is compared where it is installed. `gflops` counts dense arithmetic; `matrix product` is the time
this arithmetic takes at the device's measured matrix-product rate, a lower bound for masked execution. Each
benchmark is described in experiments/benchmarks/of_NAME.py. Writes WORKDIR/benchmark.csv and .png for MLPs,
benchmark_NAME.csv and .png for the others.
"""

import importlib

from experiments.benchmarks.settings import Report, Settings
from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output

EXPERIMENT = "benchmark"


def main(settings: Settings, run: Output) -> None:
    benchmark = importlib.import_module(f"experiments.benchmarks.of_{settings.of}")
    report: Report = benchmark.measure(settings)
    columns = list(report.rows[0])
    output.print_table(report.rows, columns)
    name = EXPERIMENT if settings.of == "mlp" else f"{EXPERIMENT}_{settings.of}"
    launch.publish(run, name, report.rows, columns, report.figure, lines=report.lines)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
