"""Running an experiment: its process (signals, exit codes, several hosts), and training what has no record yet."""

import contextlib
import dataclasses
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
from absl import app, logging
from absl import flags as absl
from matplotlib.figure import Figure

from experiments.lab import ahead, endings, flags, output, usage
from experiments.lab.flags import Command
from experiments.lab.plots import Plot
from wsn import devices, folders
from wsn.data import sources
from wsn.data.feeds import Source
from wsn.devices import compiled, hosts
from wsn.errors import TRY_AGAIN, Preempted, UserError, of_system, one_line
from wsn.records import events, plan, record, runs, workers
from wsn.records.progress import Progress
from wsn.spec import Group, Spec, check_bounds, setting
from wsn.training.strategy import EXECUTIONS

Programs = Sequence[
    tuple[Sequence[Spec], int]
]  # each: specs that train as one program, number of seeds (0, 1, …)


@dataclasses.dataclass(frozen=True)
class Output:
    """Where an experiment writes."""

    workdir: str | Path = setting("Folder of all that is written: the table (.csv), the figure (.png), …")
    on_cpu: ClassVar[bool] = False  # whatever accelerators there are

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("workdir", "data_dir"):
            if getattr(self, name, None) is not None:
                object.__setattr__(self, name, str(folders.local(name, getattr(self, name))))

    @property
    def folder(self) -> Path:
        return Path(self.workdir)


@dataclasses.dataclass(frozen=True)
class Run(Output):
    """How an experiment runs; none of this changes its results."""

    preset: str = setting("Settings to start from.", "quick", group="What to train")
    data_dir: str | Path | None = setting(
        "Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None
    )
    resume: bool = setting("Continue from the records in the folder; false archives them first.", True)
    dry_run: bool = setting("Print the plan (networks, weights, FLOPs, memory, time) and stop.", False)
    draw_only: bool = setting("Train nothing: draw what is in the folder, and print what is missing.", False)
    checkpoint_seconds: float = setting(
        "Least time between two checkpoints of a group. SIGTERM writes one after the epoch; exit code 75.",
        30.0,
        least=0,
    )
    target: str | None = setting(
        "Compile for a machine that is not here, such as v5e:4x8 (chips) or h100:4x8 (hosts × GPUs), print memory, time"
        " and all-reduces of a step there, and stop.",
        None,
    )
    execution: str = setting(
        "How layers with removed weights are computed: masked (dense products), sparse (cost in proportion to the kept"
        " weights), or auto, the faster one on this device, for convolutions without removed weights as well.",
        "auto",
        choices=EXECUTIONS,
    )
    tensorboard: bool = setting(
        "Also write TensorBoard events of every network: tensorboard --logdir=WORKDIR/tensorboard.", False
    )
    workers: str = setting(
        "Processes on this machine that share the networks, one core or GPU each. auto: one for each GPU; on a CPU one"
        " for each core if the networks are convolutional, else one.",
        "1",
        group="Cluster",
    )
    shard: str | None = setting(
        "i/n: train the i-th of n shares of the networks, i from 1 to n.", None, group="Cluster"
    )
    distributed: str = setting(
        "One run over several processes. auto: where srun started several tasks, and on TPU pods.",
        "auto",
        choices=("auto", "on", "off"),
        group="Cluster",
    )
    coordinator: str | None = setting(
        "HOST:PORT of process 0, where it is not detected automatically.", None, group="Cluster"
    )
    process_id: int | None = setting(
        "Index of this process, from 0; with `coordinator`.", None, least=0, group="Cluster"
    )
    num_processes: int | None = setting(
        "Number of processes; with `coordinator`.", None, least=1, group="Cluster"
    )

    @property
    def data_folder(self) -> str | None:
        """`data_dir` as the library takes it."""
        return None if self.data_dir is None else str(self.data_dir)

    def source_of(self, spec: Spec) -> Source:
        """The data of a spec."""
        source_of = ahead.source_of if self.target else sources.source_of
        return source_of(spec, self.data_folder)


# The process.


def run(command: Command) -> None:
    """Run a command and exit: 0; 1 after one line of error; 75 after SIGTERM; 130 after Ctrl-C."""
    if usage.wanted(sys.argv[1:]):
        with endings.streams():
            sys.exit(_help(command))
    flags.define(command)
    app.run(partial(_main, command))  # which prints wrong flags itself, exit code 1


def _help(command: Command) -> int:
    try:
        print(usage.text(command, sys.argv[1:], sys.modules["__main__"].__doc__ or ""))
    except UserError as error:
        return _error(error)
    except absl.Error as error:
        return _error(one_line(error))
    return 0


def _main(command: Command, argv: Sequence[str]) -> int:
    """The exit code of a command whose flags are parsed."""
    endings.begin()
    with endings.streams():
        try:
            settings, how = _begin(command, argv)
        except UserError as error:
            code = _error(error)
        else:
            if hosts.is_leader():
                code = _lead(partial(command.main, settings, how))
            else:
                with _sigterm() as stop:
                    code = runs.follow(how.source_of, stop)
            jax.distributed.shutdown()  # waits for the other processes
    endings.ended()
    return code


def _begin(command: Command, argv: Sequence[str]) -> tuple[Any, Any]:
    """(settings, run) of a command, which has joined the other processes. Raises UserError."""
    if not absl.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # not jax's search for absent accelerators
    flags.check_rest(argv)
    settings, how = flags.read(command)
    ahead_of_time = how.on_cpu or getattr(how, "target", None)
    if ahead_of_time:
        jax.config.update("jax_platforms", "cpu")
    elif isinstance(how, Run):
        several = how.coordinator is not None or how.distributed == "on" or hosts.started_as_several()
        workers.prepare(how.workers, several_hosts=several)
        hosts.join(how.distributed, how.coordinator, how.process_id, how.num_processes)
    devices.initialize()
    if not ahead_of_time:  # whose column of compile times would be one of loading
        compiled.keep(folders.cache() / "compiled")
    return settings, how


def _lead(main: Callable[[], None]) -> int:
    """Run an experiment; its exit code, which is that of every process of the run."""
    code = 0
    try:
        with output.transcript():
            main()
    except UserError as error:
        code = _error(error)
    except OSError as error:
        code = _error(of_system(error))
    except MemoryError as error:
        code = _error(f"not enough memory ({one_line(error)}): reduce the largest setting")
    except Preempted:
        print(endings.STOPPED, file=sys.stderr)
        code = TRY_AGAIN
    except SystemExit as ended:
        if ended.code == endings.INTERRUPTED:
            raise  # at once, as after a kill
        code = int(ended.code or 0)
    return hosts.broadcast(code)


def _error(message: Any) -> int:
    print(f"error: {flags.as_flags(str(message))}", file=sys.stderr)
    return 1


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM is noted instead of ending the process; yields a function: whether it has arrived."""
    arrived = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: arrived.set())
    try:
        yield arrived.is_set
    finally:
        signal.signal(signal.SIGTERM, previous or endings.terminated)  # None if C code had installed it


# Training.


def train(run: Run, programs: Programs, labels: record.Labels | None = None) -> list[record.Result] | None:
    """Train every program with its seeds; None after a dry run. Raises UserError.

    Returns the results of these specs and seeds, from this and earlier runs in the folder. A shard trains its share of
    the programs only: networks without a record are printed, and None returned if all are. With `draw_only` nothing
    is trained.
    """
    if run.tensorboard:
        events.library()
    if run.draw_only:
        if results := recorded(run, programs):
            return results
        raise UserError(f"`workdir`: {run.folder} has no record of these networks; train them first")
    share = list(programs)[_share(run.shard)]
    groups = _groups(run, share)
    if run.resume:
        runs.check(groups, run.folder, run.source_of, repair=not (run.dry_run or run.target))
    for specs, _ in programs:
        run.source_of(specs[0])  # so that wrong settings of the data fail before anything is computed
    if run.target:
        ahead.describe(groups, run, labels or {})
        return None
    costs = _costs(run, groups)
    if run.dry_run:
        finished = [run.resume and runs.has_record(run.folder, group) for group in groups]
        print(plan.describe(groups, costs.values(), finished, labels))
        return None
    plan.check(groups, costs.values())
    if not run.resume:
        for group in groups:
            runs.archive(run.folder, group)
        groups = _groups(run, share)
        costs = _costs(run, groups)
    _train(run, groups, Progress({name: cost.flops for name, cost in costs.items()}), labels)
    results, networks = recorded(run, programs), _networks(programs)
    if missing := networks - {(result.spec, result.seed) for result in results}:
        widths = ", ".join(map(str, sorted({spec.width for spec, _ in missing})))
        print(f"{len(missing)} of {len(networks)} networks have no record yet (widths {widths}): left out")
    return results or None


def _train(run: Run, groups: Sequence[Group], progress: Progress, labels: record.Labels | None) -> None:
    try:
        with _sigterm() as stop:
            workers.run(
                groups,
                run.folder,
                partial(sources.source_of, data_dir=run.data_folder),
                workers=run.workers,
                costs=progress.costs,
                labels=labels,
                checkpoint_seconds=run.checkpoint_seconds,
                execution=run.execution,
                tensorboard=run.tensorboard,
                watch=progress,
                stop=stop,
            )
    finally:
        progress.close()


def recorded(run: Run, programs: Programs) -> list[record.Result]:
    """The results in the folder of these specs and seeds; trains nothing."""
    networks, groups = _networks(programs), _groups(run, programs)
    runs.check(groups, run.folder, run.source_of)
    return [r for r in runs.results(groups, run.folder) if (r.spec, r.seed) in networks]


def _groups(run: Run, programs: Programs) -> list[Group]:
    counts = dict.fromkeys(count for _, count in programs)
    return [
        group
        for count in counts
        for group in runs.plan_groups(
            run.folder, [specs for specs, n in programs if n == count], range(count)
        )
    ]


def _costs(run: Run, groups: Sequence[Group]) -> dict[str, Any]:
    return {group.name: plan.cost(group, run.source_of(group.specs[0]), run.execution) for group in groups}


def _networks(programs: Programs) -> set[tuple[Spec, int]]:
    return {(spec, seed) for specs, count in programs for spec in specs for seed in range(count)}


def _share(shard: str | None) -> slice:
    """The share of a list that shard i/n names: every n-th item, from the i-th. Raises UserError."""
    if shard is None:
        return slice(None)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"`shard={shard}` is not a share: give i/n with i from 1 to n, such as 1/4")
    return slice(int(match[1]) - 1, None, int(match[2]))


# Results.


def publish(
    run: Output,
    name: str,
    rows: output.Rows,
    columns: Sequence[str],
    figure: Figure,
    plot: Plot | None = None,
    lines: Sequence[str] = (),
    tables: Mapping[str, tuple] = {},
) -> None:
    """The end of an experiment: write NAME.csv, NAME_*.csv and NAME.png, print the lines and the names of the files.

    `tables`: suffix → (rows, columns) of further tables, and their digits.
    """
    written = [output.write_table(run.folder, name, rows, columns)]
    written += [output.write_table(run.folder, f"{name}_{more}", *table) for more, table in tables.items()]
    written.append(output.write_figure(run.folder, name, figure, plot))
    print(*lines, sep="\n", end="\n" if lines else "")
    wrote(run, *written)


def wrote(run: Output, *paths: Path) -> None:
    """Print the last line of a run: the files that it wrote, and how to open the folder as a page."""
    page = f"python -m experiments.report --workdir={shlex.quote(str(run.workdir))}"
    print("wrote", *paths, *([f"(open as a page: {page})"] if isinstance(run, Run) else []))
