"""One command, several processes: workers share the groups of a folder by its claims, and report to their parent.

A worker is a fresh interpreter that knows nothing of its parent but a job, which comes through its standard input; what
it says goes back through its standard output. It has its own cores or its own GPU before JAX starts there. The parent
trains nothing: it shows the progress, passes signals on, and gives to one more worker what dead ones left.
"""

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from wsn import folders
from wsn.data.feeds import Source
from wsn.devices import compiled
from wsn.devices.shares import Share, gpus, max_shares, pinned, shares
from wsn.errors import Preempted, UserError, of_system
from wsn.networks import models
from wsn.records import runs
from wsn.records.events import Events
from wsn.records.record import Labels
from wsn.spec import Group, Spec
from wsn.training.history import History
from wsn.training.strategy import goes_step_by_step


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker is told: the arguments of `runs.run`."""

    groups: Sequence[Group]
    workdir: Path
    source_of: Callable[[Spec], Source]  # of a module, since it is pickled
    labels: Labels | None
    checkpoint_seconds: float
    execution: str
    tensorboard: bool


def prepare(asked: str, *, several_hosts: bool) -> None:
    """Check `workers`, and leave the GPUs to the workers; call it before anything of JAX. Raises UserError."""
    if asked == "1":
        return
    if asked != "auto" and not (asked.isdecimal() and int(asked) >= 1):
        raise UserError(
            f"`workers={asked}` is not a number of processes: give auto, or a number of at least 1"
        )
    if several_hosts:
        raise UserError(
            f"`workers={asked}`: a run over several processes has its own; leave out `workers`,"
            " or `coordinator` and `distributed`"
        )
    if asked != "auto" and int(asked) > max_shares():
        kind = "GPU" if gpus() else "core"
        raise UserError(f"`workers={asked}`: each takes a {kind} of its own: give at most {max_shares()}")
    if len(gpus()) > 1:
        jax.config.update("jax_platforms", "cpu")


def run(
    groups: Sequence[Group],
    workdir: Path,
    source_of: Callable[[Spec], Source],
    *,
    workers: str = "1",
    costs: Mapping[str, float],
    labels: Labels | None = None,
    checkpoint_seconds: float = 30.0,
    execution: str = "masked",
    tensorboard: bool = False,
    watch: runs.Watch = lambda group, share, history: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """`runs.run` by so many workers, or "auto".

    `costs`: FLOPs by name of group; workers take the longest first, so that all end at about the same time.
    `source_of` must be a function of a module, or a `functools.partial` of one. The history that `watch` gets has the
    last row only. Raises UserError of a worker once, Preempted when any of them was stopped, each after all have
    ended; on any other exception they are killed.
    """
    left = sorted(_unfinished(groups, workdir), key=lambda group: -costs[group.name])
    count = number(workers, left, source_of)
    alone = count == 1 and (workers == "1" or len(gpus()) < 2)
    own = (
        groups if alone else [group for group in groups if group not in left]
    )  # what is finished is reported here
    job = Job(own, workdir, source_of, labels, checkpoint_seconds, execution, tensorboard)
    _train(job, watch, stop)
    if alone:
        return
    for parts in (shares(count), shares(1)):  # the second takes over what dead workers left
        if left := _unfinished(left, workdir):
            _run(dataclasses.replace(job, groups=left), parts, watch, stop)
    if _unfinished(left, workdir):
        raise UserError("`workers`: all were killed; the same command goes on from what is saved")


def _train(job: Job, watch: runs.Watch, stop: Callable[[], bool]) -> None:
    """Do a job in this process; whoever trains a network writes its events."""
    with contextlib.ExitStack() as closing:
        events = Events(job.workdir, job.labels) if job.tensorboard else None
        if events is not None:
            closing.callback(events.close)

        def watched(group: Group, share: float, history: History | None) -> None:
            if events is not None:
                events(group, share, history)
            watch(group, share, history)

        runs.run(
            job.groups,
            job.workdir,
            job.source_of,
            labels=job.labels,
            checkpoint_seconds=job.checkpoint_seconds,
            execution=job.execution,
            watch=watched,
            stop=stop,
        )


def _unfinished(groups: Sequence[Group], workdir: Path) -> list[Group]:
    return [group for group in groups if not runs.has_record(workdir, group)]


def number(asked: str, left: Sequence[Group], source_of: Callable[[Spec], Source]) -> int:
    """How many workers to start for the groups that are left.

    "auto": one for each GPU; on a CPU one for each core where all networks go step by step, else one: a program of a
    whole epoch keeps all cores busy by itself. Never more than groups.
    """
    if asked == "auto":
        asked = str(
            max_shares() if gpus() or all(_goes_step_by_step(group, source_of) for group in left) else 1
        )
    return min(int(asked), max(1, len(left)))


def _goes_step_by_step(group: Group, source_of: Callable[[Spec], Source]) -> bool:
    source = source_of(group.specs[0])
    return goes_step_by_step(models.build(group.specs[0], source.input_shape, source.classes))


def _run(job: Job, parts: Sequence[Share], watch: runs.Watch, stop: Callable[[], bool]) -> None:
    """Start a worker for each share and follow them until all have ended."""
    said: queue.SimpleQueue = queue.SimpleQueue()
    groups = {group.name: group for group in job.groups}
    errors: list[str] = []
    codes: list[int] = []
    finished: set[str] = set()
    told = False
    with _started(job, parts, said) as processes:
        while len(codes) < len(processes):
            if not told and (stop() or errors or any(code > 0 for code in codes)):
                told = True
                for process in processes:
                    process.send_signal(signal.SIGTERM)
            try:
                match said.get(timeout=0.1):
                    case name, share, history:
                        if name not in finished:
                            watch(groups[name], share, history)
                        if share == 1.0:
                            finished.add(name)
                    case str(error):
                        errors.append(error)
                    case int(code):
                        codes.append(code)
                        if code < 0:
                            print(
                                f"a worker was killed (signal {-code}): its work is taken over",
                                file=sys.stderr,
                            )
            except queue.Empty:
                pass
    if errors:
        raise UserError(errors[0])
    if any(code not in (0, os.EX_TEMPFAIL) for code in codes if code >= 0):
        raise UserError("a worker failed; what it says stands above")
    if os.EX_TEMPFAIL in codes:
        raise Preempted


@contextlib.contextmanager
def _started(job: Job, parts: Sequence[Share], said: queue.SimpleQueue) -> Iterator[list[subprocess.Popen]]:
    """A worker for each share, in the block; in the end none is left."""
    processes: list[subprocess.Popen] = []
    listeners: list[threading.Thread] = []
    try:
        with _later(signal.SIGINT, signal.SIGTERM):
            for part in parts:
                processes.append(_start(part))
                listeners.append(threading.Thread(target=_listen, args=(processes[-1], job, said)))
                listeners[-1].start()
        yield processes
    finally:
        for process in processes:
            process.kill()
        for listener in listeners:
            listener.join()


@contextlib.contextmanager
def _later(*signals: signal.Signals) -> Iterator[None]:
    """Signals of this thread wait for the end of the block; in processes that it starts they wait for ever."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start(part: Share) -> subprocess.Popen:
    """A new interpreter that has the share; JAX and NumPy count its cores when they are imported there."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | part.environment
    command = [sys.executable, "-c", "from wsn.records import workers; workers.work()"]
    with pinned(part.cores):
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _listen(process: subprocess.Popen, job: Job, said: queue.SimpleQueue) -> None:
    """Tell a worker its job, and pass on what it says; in the end its exit code."""
    with contextlib.suppress(BrokenPipeError), process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError, EOFError, pickle.UnpicklingError):
            pickle.dump(job, process.stdin)
            process.stdin.flush()
            while True:
                said.put(pickle.load(process.stdout))
        process.wait()  # with its standard input open: to a worker, its end is the end of the parent
    said.put(process.returncode)


def work() -> None:
    """What a worker process does: read its job, train, report every evaluation, and exit.

    Ctrl-C, which a terminal sends to all processes, stays blocked: the parent decides.
    """
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything prints is no report
    noted = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: noted.set())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        job = pickle.load(sys.stdin.buffer)
    except EOFError:  # the parent is gone already
        sys.exit(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compiled.keep(folders.cache() / "compiled")

    def tell(report: Any) -> None:
        pickle.dump(report, reports)
        reports.flush()

    def watch(group: Group, share: float, history: History | None) -> None:
        if history is not None:
            curves = {name: values[-1:] for name, values in history.curves.items()}
            history = History(history.step[-1:], curves)
        tell((group.name, share, history))

    code = 0
    try:
        _train(job, watch, noted.is_set)
    except (UserError, OSError) as error:
        tell(str(of_system(error) if isinstance(error, OSError) else error))
        code = 1
    except Preempted:
        code = os.EX_TEMPFAIL
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python takes its own handler away while it ends
    sys.exit(code)


def _end_with_parent() -> None:
    """End at once when the parent is gone, whose end of the pipe the kernel closes."""
    os.read(0, 1)
    os._exit(1)
