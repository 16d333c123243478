"""Running an experiment: signals and exit codes, several processes, training what has no record yet.

In: a command; lists of specs with how many seeds. Out: the results in the folder. Everything is told by values: what a
run is told is a `Run`, made from flags or in a notebook.
"""

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
from absl import app, logging
from absl import flags as absl

from experiments.lab import endings, flags, output, usage
from experiments.lab.flags import Command
from wsn import folders
from wsn.data import sources
from wsn.data.feeds import Source
from wsn.devices import compiled, hosts
from wsn.errors import Preempted, UserError, of_system, one_line
from wsn.records import events, plan, record, runs, workers
from wsn.records.progress import Progress
from wsn.spec import Group, Spec, check_bounds, setting
from wsn.training.strategy import EXECUTIONS

absl.disclaim_key_flags()  # as in `flags`


@dataclasses.dataclass(frozen=True)
class Output:
    """Where an experiment writes."""

    workdir: str = setting("Folder of everything written: the table (.csv), the figure (.png), …")

    def __post_init__(self) -> None:
        check_bounds(self)

    @property
    def folder(self) -> Path:
        return Path(self.workdir)


@dataclasses.dataclass(frozen=True)
class Run(Output):
    """How an experiment trains: what changes none of its results."""

    preset: str = setting("Settings to start from.", "quick", group="What to train")
    data_dir: str | None = setting("Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None)
    resume: bool = setting("Go on from what is in the folder; false sets it aside, undeleted.", True)
    dry_run: bool = setting("Print the plan (networks, weights, FLOPs, memory, time) and stop.", False)
    draw_only: bool = setting("Train nothing: draw what is in the folder, and say what is missing.", False)
    checkpoint_seconds: float = setting(
        "Least time between two checkpoints of a group. SIGTERM makes one after the epoch, and exit code 75.",
        30.0,
        least=0,
    )
    execution: str = setting(
        "How layers that lose weights are run: masked (dense products), sparse (a cost that follows what is kept), or"
        " auto, as is faster on this device, for convolutions that lose none as well.",
        "auto",
        choices=EXECUTIONS,
    )
    tensorboard: bool = setting(
        "Write TensorBoard events of every network too: tensorboard --logdir=WORKDIR/tensorboard.", False
    )
    workers: str = setting(
        "Processes on this machine that share the networks, each with a core or a GPU of its own. auto: one for each"
        " GPU; on a CPU one for each core where the networks are convolutional, else one.",
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
        "HOST:PORT of process 0, where nothing is found out by itself.", None, group="Cluster"
    )
    process_id: int | None = setting(
        "Which of the processes this is, from 0; with `coordinator`.", None, least=0, group="Cluster"
    )
    num_processes: int | None = setting(
        "How many processes there are; with `coordinator`.", None, least=1, group="Cluster"
    )

    def source_of(self, spec: Spec) -> Source:
        """The data that a spec trains on."""
        return sources.source_of(spec, self.data_dir)


def run(command: Command) -> None:
    """Run an experiment under absl: bad input ends in one line and exit code 1, Ctrl-C in 130, SIGTERM in 75."""
    if usage.wanted(sys.argv[1:]):
        sys.exit(_help(command))
    flags.define(command)

    def guarded(argv: Sequence[str]) -> int:
        endings.begin()
        with endings.streams():
            code = begun(argv)
        endings.ended()
        return code

    def begun(argv: Sequence[str]) -> int:
        if not absl.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # jax's search for absent accelerators is no news
        try:
            flags.check_rest(argv)
            settings, how = flags.read(command)
            if isinstance(how, Run):
                several = how.coordinator is not None or how.distributed == "on" or hosts.started_as_several()
                workers.prepare(how.workers, several_hosts=several)
                hosts.join(how.distributed, how.coordinator, how.process_id, how.num_processes)
            compiled.keep(folders.cache() / "compiled")
        except UserError as error:
            print(f"error: {flags.as_flags(str(error))}", file=sys.stderr)
            return 1
        if hosts.is_leader():
            code = _lead(partial(command.main, settings, how))
        else:
            with _sigterm() as stop:
                code = runs.follow(how.source_of, stop)
        jax.distributed.shutdown()  # waits for the other processes
        return code

    # absl prints an unknown or ill-typed flag with the usage of the module and exits with 1.
    app.run(guarded)


def _help(command: Command) -> int:
    """Print the help for the rest of the command line; the exit code."""
    with endings.streams():
        try:
            print(usage.text(command, sys.argv[1:], sys.modules["__main__"].__doc__ or ""))
        except (UserError, absl.Error) as error:
            print(
                f"error: {one_line(error) if isinstance(error, absl.Error) else flags.as_flags(str(error))}",
                file=sys.stderr,
            )
            return 1
    return 0


def _lead(main: Callable[[], None]) -> int:
    """Run an experiment; its exit code, which is that of every process of the run."""
    code = 0
    try:
        with output.transcript():
            main()
    except (UserError, OSError) as error:
        message = of_system(error) if isinstance(error, OSError) else error
        print(f"error: {flags.as_flags(str(message))}", file=sys.stderr)
        code = 1
    except MemoryError as error:
        print(f"error: not enough memory ({one_line(error)}): give less of what is largest", file=sys.stderr)
        code = 1
    except Preempted:
        print(endings.STOPPED, file=sys.stderr)
        code = os.EX_TEMPFAIL
    except SystemExit as ended:
        if ended.code == endings.INTERRUPTED:
            raise  # at once, as after a kill
        code = int(ended.code or 0)
    return hosts.broadcast(code)


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM is noted instead of ending the process; yields the question whether it came."""
    noted = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: noted.set())
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGTERM, previous or endings.terminated)  # none where C code had installed one


Asked = Sequence[
    tuple[Sequence[Spec], int]
]  # lists of specs, one program each, and of how many seeds (0, 1, …)


def train(run: Run, asked: Asked, labels: record.Labels | None = None) -> list[record.Result] | None:
    """Train every list of specs with its seeds; None after a dry run. Raises UserError.

    Returns the results of just these specs and seeds, from this and from earlier runs in the folder. With a shard only
    a share of the lists is trained: what has no result is printed, and None returned when nothing has. Where a run
    only draws nothing is trained.
    """
    if run.tensorboard:
        events.library()
    if run.draw_only:
        if found := recorded(run, asked):
            return found
        raise UserError(f"`workdir`: {run.folder} has no record of these networks; train them first")
    own = list(asked)[_share(run.shard)]
    groups = _cover(run, own)
    if run.resume:
        runs.check(groups, run.folder, run.source_of, mend=not run.dry_run)
    for specs, _ in asked:
        run.source_of(specs[0])  # bad data settings show before anything is computed
    costs = {group.name: plan.cost(group, run.source_of(group.specs[0]), run.execution) for group in groups}
    if run.dry_run:
        finished = [run.resume and runs.has_record(run.folder, group) for group in groups]
        print(plan.describe(groups, costs.values(), finished, labels))
        return None
    plan.check(groups, costs.values())
    if not run.resume:
        for group in groups:
            runs.set_aside(run.folder, group)
        groups = _cover(run, own)
        costs = {
            group.name: plan.cost(group, run.source_of(group.specs[0]), run.execution) for group in groups
        }
    _train(run, groups, Progress({name: cost.flops for name, cost in costs.items()}), labels)
    results = recorded(run, asked)
    networks = _networks(asked)
    missing = networks - {(result.spec, result.seed) for result in results}
    if missing:
        widths = ", ".join(map(str, sorted({spec.width for spec, _ in missing})))
        print(f"{len(missing)} of {len(networks)} networks have no record yet (widths {widths}): left out")
    return results or None


def _train(run: Run, groups: Sequence[Group], progress: Progress, labels: record.Labels | None) -> None:
    try:
        with _sigterm() as stop:
            workers.run(
                groups,
                run.folder,
                partial(sources.source_of, data_dir=run.data_dir),
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


def recorded(run: Run, asked: Asked) -> list[record.Result]:
    """The results in the folder of just these lists of specs and seeds; trains nothing."""
    networks, groups = _networks(asked), _cover(run, asked)
    runs.check(groups, run.folder, run.source_of)
    return [r for r in runs.results(groups, run.folder) if (r.spec, r.seed) in networks]


def _cover(run: Run, asked: Asked) -> list[Group]:
    counts = dict.fromkeys(count for _, count in asked)
    return [
        group
        for count in counts
        for group in runs.cover(run.folder, [specs for specs, n in asked if n == count], range(count))
    ]


def wrote(run: Output, *paths: Path) -> None:
    """The last line of a run: what it wrote, and how to look at all that is in the folder."""
    page = f"python -m experiments.report --workdir={shlex.quote(run.workdir)}"
    print("wrote", *paths, *([f"(open as a page: {page})"] if isinstance(run, Run) else []))


def _networks(asked: Asked) -> set[tuple[Spec, int]]:
    return {(spec, seed) for specs, count in asked for spec in specs for seed in range(count)}


def _share(shard: str | None) -> slice:
    """The share of a list that --shard=i/n names: every n-th item, from the i-th. Raises UserError."""
    if shard is None:
        return slice(None)
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"`shard={shard}` is not a share: give i/n with i from 1 to n, such as 1/4")
    return slice(int(match[1]) - 1, None, int(match[2]))
