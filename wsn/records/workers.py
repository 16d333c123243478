"""One command, several processes: workers share the groups of a folder by their locks and report to their parent.

A worker is a new interpreter with cores or a GPU of its own. It reads a pickled job from its standard input and sends
evaluations, an error and finally its exit code. The parent trains nothing: it shows progress, passes SIGTERM on, and
starts one more worker for what killed ones left.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

import jax

from wsn import folders
from wsn.data.feeds import Source
from wsn.devices import compiled
from wsn.devices.shares import Share, gpus, max_shares, pinned, shares
from wsn.errors import TRY_AGAIN, Preempted, UserError, of_system
from wsn.networks import models
from wsn.records import runs
from wsn.records.events import Events
from wsn.spec import Group, Spec
from wsn.training.history import History
from wsn.training.strategy import goes_step_by_step


class Job(NamedTuple):
    """The arguments of `runs.run`, pickled: so `source_of` is a function of a module, or a partial of one."""

    groups: Sequence[Group]
    workdir: Path
    source_of: Callable[[Spec], Source]
    tensorboard: bool
    options: Mapping[str, Any]


def prepare(workers: str, *, several_hosts: bool) -> None:
    """Check `workers`, and leave the GPUs to them; call it before JAX starts its devices. Raises UserError."""
    if workers == "1":
        return
    if workers != "auto" and not (workers.isdecimal() and int(workers) >= 1):
        raise UserError(
            f"`workers={workers}` is not a number of processes: give auto, or a number of at least 1"
        )
    if several_hosts:
        raise UserError(
            f"`workers={workers}` does not go with a run over several processes: leave out `workers`, or"
            " `coordinator` and `distributed`"
        )
    if workers != "auto" and int(workers) > max_shares():
        kind = "GPU" if gpus() else "core"
        raise UserError(f"`workers={workers}`: each takes a {kind} of its own: give at most {max_shares()}")
    if len(gpus()) > 1:
        jax.config.update("jax_platforms", "cpu")


def run(
    groups: Sequence[Group],
    workdir: Path,
    source_of: Callable[[Spec], Source],
    *,
    workers: str = "1",
    costs: Mapping[str, float],
    tensorboard: bool = False,
    watch: runs.Watch = lambda group, fraction, history: None,
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> None:
    """`runs.run` with its `options`, by a number of worker processes ("auto" chooses it).

    `costs`: FLOPs by name of group; the longest are trained first, so that all workers end at about the same time.
    The history that `watch` gets has the last row only. Raises the first UserError of a worker, and Preempted if any
    was stopped, after all have ended; on any other exception they are killed.
    """
    left = sorted(_unfinished(groups, workdir), key=lambda group: -costs[group.name])
    count = number(workers, left, source_of)
    alone = count == 1 and (workers == "1" or len(gpus()) < 2)
    ours = groups if alone else [group for group in groups if group not in left]  # finished: only reported
    job = Job(ours, workdir, source_of, tensorboard, options)
    _train(job, watch, stop)
    if alone:
        return
    for parts in (shares(count), shares(1)):  # the second takes over from killed workers
        if left := _unfinished(left, workdir):
            _run(job._replace(groups=left), parts, watch, stop)
    if _unfinished(left, workdir):
        raise UserError("`workers`: all were killed; the same command resumes from their checkpoints")


def _train(job: Job, watch: runs.Watch, stop: Callable[[], bool]) -> None:
    """Do a job in this process, which also writes the events of what it trains."""
    with contextlib.ExitStack() as closing:
        watches = [watch]
        if job.tensorboard:
            events = closing.enter_context(contextlib.closing(Events(job.workdir, job.options.get("labels"))))
            watches.insert(0, events)

        def watch_all(group: Group, fraction: float, history: History | None) -> None:
            for each in watches:
                each(group, fraction, history)

        runs.run(job.groups, job.workdir, job.source_of, watch=watch_all, stop=stop, **job.options)


def _unfinished(groups: Sequence[Group], workdir: Path) -> list[Group]:
    return [group for group in groups if not runs.has_record(workdir, group)]


def number(workers: str, left: Sequence[Group], source_of: Callable[[Spec], Source]) -> int:
    """The number of workers for the groups that are left, at most one each.

    "auto": one per GPU; on a CPU one per core if all networks are trained step by step, else one, since a program of a
    whole epoch uses all cores.
    """

    def step_by_step(group: Group) -> bool:
        source = source_of(group.specs[0])
        return goes_step_by_step(models.build(group.specs[0], source.input_shape, source.classes))

    if workers == "auto":
        workers = str(max_shares() if gpus() or all(map(step_by_step, left)) else 1)
    return min(int(workers), max(1, len(left)))


def _run(job: Job, parts: Sequence[Share], watch: runs.Watch, stop: Callable[[], bool]) -> None:
    """Start a worker for each share of the machine and follow them until all have ended."""
    groups = {group.name: group for group in job.groups}
    finished: set[str] = set()
    errors: list[str] = []
    codes: list[int] = []
    stopping = False
    with _started(job, parts) as processes:
        while processes:
            if not stopping and (stop() or errors or any(code > 0 for code in codes)):
                stopping = True
                for process in processes.values():
                    process.send_signal(signal.SIGTERM)
            for reports in connection.wait(list(processes), timeout=0.1):
                assert isinstance(reports, connection.Connection)
                try:
                    report = reports.recv()
                except (EOFError, OSError):  # the worker has ended
                    codes.append(processes.pop(reports).wait())
                    if codes[-1] < 0:
                        cause = f"a worker was killed (signal {-codes[-1]})"
                        print(f"{cause}: other processes take over its networks", file=sys.stderr)
                    continue
                if isinstance(report, str):
                    errors.append(report)
                    continue
                name, fraction, history = report
                if name not in finished:
                    watch(groups[name], fraction, history)
                if fraction == 1.0:
                    finished.add(name)
    if errors:
        raise UserError(errors[0])
    if any(code not in (0, TRY_AGAIN) for code in codes if code >= 0):
        raise UserError("a worker failed; its output is above")
    if TRY_AGAIN in codes:
        raise Preempted


@contextlib.contextmanager
def _started(job: Job, parts: Sequence[Share]) -> Iterator[dict[connection.Connection, subprocess.Popen]]:
    """A worker for each share during the block, by the connection of its reports; none is left after it."""
    started: dict[connection.Connection, subprocess.Popen] = {}
    try:
        # Workers inherit the blocked signals: Ctrl-C, which a terminal sends to all processes, is left to the parent.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for part in parts:
                reports, process = _start(part, job)
                started[reports] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        yield dict(started)
    finally:
        for reports, process in started.items():
            process.kill()
            process.wait()
            reports.close()


def _start(part: Share, job: Job) -> tuple[connection.Connection, subprocess.Popen]:
    """A new interpreter on a share of the machine, which JAX and NumPy see when they are imported there."""
    ours, theirs = connection.Pipe()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | part.environment
    command = [sys.executable, "-c", f"from wsn.records import workers; workers.work({theirs.fileno()})"]
    with theirs, tempfile.TemporaryFile() as file, pinned(part.cores):
        pickle.dump(job, file)
        file.seek(0)
        return ours, subprocess.Popen(
            command, stdin=file, stdout=2, env=environment, pass_fds=[theirs.fileno()]
        )


def work(descriptor: int) -> None:
    """The main function of a worker process: train a job, report every evaluation through the connection, and exit."""
    reports = connection.Connection(descriptor)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_exit_with_parent, args=(reports,), daemon=True).start()
    job = pickle.load(sys.stdin.buffer)
    compiled.keep(folders.cache() / "compiled")

    def report(group: Group, fraction: float, history: History | None) -> None:
        if history is not None:
            curves = {name: values[-2:] for name, values in history.curves.items()}
            history = History(history.step[-2:], curves)  # two rows: it was resumed, or is past the first
        reports.send((group.name, fraction, history))

    code = 0
    try:
        _train(job, report, stopped.is_set)
    except (UserError, OSError) as error:
        reports.send(str(of_system(error) if isinstance(error, OSError) else error))
        code = 1
    except Preempted:
        code = TRY_AGAIN
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while it exits, Python removes its own handler
    sys.exit(code)


def _exit_with_parent(reports: connection.Connection) -> None:
    """Exit at once when the parent is gone: the kernel closes its end of the connection."""
    with contextlib.suppress(EOFError, OSError):
        reports.recv()
    os._exit(1)
