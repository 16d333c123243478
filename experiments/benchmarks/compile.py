"""What the papers' runs would take on TPUs and GPUs: their programs, compiled for machines that are not here.

    python -m experiments.compile                      # Figure 8 for a TPU v5e and an H100; two minutes
    python -m experiments.compile --of=figure6         # CIFAR-100 on an H100, a minute
    python -m experiments.compile --of=figure6_bfloat16  # and in bfloat16 on a TPU as well, a quarter of an hour
    python -m experiments.compile --of=language        # the largest network of the second paper; minutes of a core
    python -m experiments.compile --of=imagenet        # on 8, 32 and 256 chips; an hour or two of a core
    python -m experiments.compile --of=figure8 --of=figure6_bfloat16 --of=language --of=imagenet --machines=v5e  # hours

Any command does this for its own networks by --target=v5e:4x8. Compilers are libraries that need no accelerator: an
error says how to fetch one. Data that are missing (ImageNet, the paper's texts) are replaced by blank ones of their
size. A time is a bound (see experiments/lab/ahead.py): nothing runs. What is compiled already is not compiled again.
Writes WORKDIR/compiled.csv, a row per group of networks and machine.
"""

import csv
import dataclasses
import shlex

from experiments.lab import ahead, contents, flags, launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from wsn.errors import UserError, check_known
from wsn.spec import check_bounds, setting

EXPERIMENT = "compile"
FIGURE6 = "resnet_width --preset=paper --dataset=cifar100 --widths=8,18,64"
ONE, POD = ("v5e:1", "h100:1"), ("v5e:2x4", "h100:1x8", "v5e:4x8", "h100:4x8", "v5e:16x16", "h100:32x8")
# Run → its command, and machines. For a TPU a program of Figure 6 in full float32 takes over ten minutes and 10 GB.
RUNS = {
    "figure8": ("kernel_distance --preset=paper --dataset=mnist", ONE),
    "figure6": (FIGURE6, ONE[1:]),
    "figure6_bfloat16": (f"{FIGURE6} --compute_dtype=bfloat16", ONE),
    "language": ("halting_time --preset=paper --widths=764 --fractions=1 --learning_rates=0.8", POD[:2]),
    "imagenet": (
        "resnet_width --preset=imagenet --widths=64,128,256 --dense_seeds=0 --batch_size=1024"
        " --compute_dtype=bfloat16",
        POD,
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compiled."""

    of: tuple[str, ...] = setting("Which runs.", ("figure8",), choices=tuple(RUNS), some=True)
    machines: tuple[str, ...] = setting("Only these machines or chips, such as v5e:4x8,h100.", ())

    def __post_init__(self) -> None:
        check_bounds(self)
        known = {name for machine in (*ONE, *POD) for name in (machine, machine.partition(":")[0])}
        for name in self.machines:
            check_known(sorted(known), "machines", name)


class Ahead(Output):
    """Uses no accelerator."""

    on_cpu = True


def main(settings: Settings, run: Output) -> None:
    rows: list[ahead.Row] = []
    failures = []
    for name in settings.of:
        line, machines = RUNS[name]
        for machine in machines:
            if settings.machines and not {machine, machine.partition(":")[0]} & {*settings.machines}:
                continue
            folder = run.folder / name / machine.replace(":", "-")
            table = folder / f"{ahead.NAME}.csv"
            if not table.exists():
                print(f"{line} --target={machine}")
                command, *arguments = shlex.split(line)
                arguments += [f"--target={machine}", f"--workdir={folder}"]
                try:
                    contents.command(command).main(*flags.parse(contents.command(command), arguments))
                except UserError as error:
                    if not table.exists():  # no compiler; too little memory is said after the table
                        raise
                    failures.append(error)
            with open(table, encoding="utf-8", newline="") as file:
                rows += [{"run": name, **row} for row in csv.DictReader(file)]
    if not rows:
        raise UserError(f"`machines={','.join(settings.machines)}`: `of` compiles for none of these")
    print("wrote", output.write_table(run.folder, ahead.NAME, rows, ["run", *ahead.COLUMNS]))
    if failures:
        raise failures[0]


COMMAND = Command(main, {"default": Settings()}, Ahead(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
