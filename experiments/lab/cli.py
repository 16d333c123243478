"""What every experiment shares: flags, errors in one line, training a list of groups, CSV, figure and command."""

import contextlib
import csv
import dataclasses
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from absl import app, flags, logging
from matplotlib.figure import Figure
from tqdm import tqdm

from wsn import data, folders
from wsn.data import sources
from wsn.data.feeds import Source
from wsn.data.stream import STREAMS
from wsn.devices import compiled, hosts
from wsn.errors import Preempted, UserError
from wsn.networks import models
from wsn.records import plan, runs, workers
from wsn.records.files import replacing
from wsn.records.progress import LINE_SECONDS, Progress
from wsn.sparsity.shapes import Shapes
from wsn.spec import ComputeDtype, Group, Normalization, Order, Spec

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # so that --help of an experiment lists the flags that are defined here for it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that every training experiment has; a flag of the same name takes the place of one."""

    dataset: str
    base_width: int
    widths: tuple[int, ...]
    train_samples: int | None  # None: all
    batch_size: int
    epochs: int
    seeds: int


def define_output_flags(experiment: str) -> None:
    """--workdir."""
    flags.DEFINE_string(
        "workdir", f"results/{experiment}", f"Folder of everything written: {experiment}.csv, .png, …"
    )


def define_training_flags(presets: Mapping[str, Any], preset: str) -> None:
    """Flags of every training experiment; a flag left out takes its value from the preset."""
    flags.DEFINE_string("preset", preset, f"Settings to start from: one of {', '.join(presets)}.")
    flags.DEFINE_string("dataset", None, f"Data set: one of {', '.join([*data.DATASETS, *STREAMS])}.")
    flags.DEFINE_string("data_dir", None, "Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).")
    flags.DEFINE_integer("base_width", None, "Width of the dense network whose weight count is the budget.")
    flags.DEFINE_list("widths", None, "Widths to train, comma-separated, none below the base width.")
    flags.DEFINE_integer("epochs", None, "Passes over the training samples.")
    flags.DEFINE_integer("seeds", None, "How many seeds (0, 1, …) of every network.")
    flags.DEFINE_integer("train_samples", None, "Size of the training subset (0: all).")
    flags.DEFINE_integer("data_seed", 0, "Draws the subset, what is held out and the order of the batches.")
    flags.DEFINE_enum(
        "order", "shared", get_args(Order), "Batches: those of --data_seed for all, or by seed."
    )
    flags.DEFINE_enum("normalization", "scalar", get_args(Normalization), "What shares a mean and deviation.")
    flags.DEFINE_enum("compute_dtype", "float32", get_args(ComputeDtype), "Type of matrix products.")
    flags.DEFINE_float("learning_rate", None, "One learning rate for every network, instead of the preset's.")
    flags.DEFINE_boolean("resume", True, "Go on from what is in the folder; false sets it aside, undeleted.")
    flags.DEFINE_boolean(
        "dry_run", False, "Print the plan (networks, weights, FLOPs, memory, time) and stop."
    )
    flags.DEFINE_float(
        "checkpoint_seconds",
        30.0,
        "Least time between two checkpoints of a group. SIGTERM makes one after the epoch, and exit code 75.",
    )
    flags.DEFINE_string("shard", None, "i/n: train the i-th of n shares of the networks, i from 1 to n.")
    flags.DEFINE_string(
        "workers",
        "1",
        "Processes on this machine that share the networks, each with a core or a GPU of its own. auto: one for each"
        " GPU; on a CPU one for each core where the networks are convolutional, else one.",
    )
    flags.DEFINE_enum(
        "distributed",
        "auto",
        ["auto", "on", "off"],
        "One run over several processes. auto: where srun started several tasks, and on TPU pods.",
    )
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where nothing is found out by itself.")
    flags.DEFINE_integer("process_id", None, "Which of the processes this is, from 0; with --coordinator.")
    flags.DEFINE_integer("num_processes", None, "How many processes there are; with --coordinator.")


def run(main: Callable[[], None]) -> None:
    """Run an experiment under absl: bad input ends in one line and exit code 1, Ctrl-C in 130, SIGTERM in 75."""

    def guarded(argv: Sequence[str]) -> int:
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # jax's search for absent accelerators is no news
        try:
            if len(argv) > 1:
                raise UserError(f"{argv[1]}: unexpected argument; flags look like --widths=8,32")
            if "workers" in FLAGS:
                several = (
                    FLAGS.coordinator is not None or FLAGS.distributed == "on" or hosts.started_as_several()
                )
                workers.prepare(FLAGS.workers, several_hosts=several)
            if "distributed" in FLAGS:
                hosts.join(FLAGS.distributed, FLAGS.coordinator, FLAGS.process_id, FLAGS.num_processes)
        except UserError as error:
            sys.exit(f"error: {error}")
        compiled.keep(folders.cache() / "compiled")
        if hosts.lead():
            code = _lead(main)
        else:
            with _sigterm() as stop:
                code = runs.follow(source_of, stop)
        jax.distributed.shutdown()  # waits for the other processes
        return code

    # absl prints an unknown or ill-typed flag with the usage of the module and exits with 1.
    app.run(guarded)


def _lead(main: Callable[[], None]) -> int:
    """Run an experiment; its exit code, which is that of every process of the run."""
    code = 0
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except Preempted:
        print(f"stopped by SIGTERM; the same command goes on (exit code {os.EX_TEMPFAIL})", file=sys.stderr)
        code = os.EX_TEMPFAIL
    except KeyboardInterrupt:
        sys.exit(130)
    return hosts.tell(code)


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """In the block SIGTERM is noted instead of ending the process; yields the question whether it came."""
    noted = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: noted.set())
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)  # none where C code had installed one


def choose(presets: Mapping[str, Any]) -> Any:
    """The preset named by --preset, with every flag that was given in its place. Raises UserError."""
    if FLAGS.preset not in presets:
        raise UserError(f"--preset={FLAGS.preset} is unknown: choose one of {', '.join(presets)}")
    preset = presets[FLAGS.preset]
    names = {field.name for field in dataclasses.fields(preset)}
    given = {name: FLAGS[name].value for name in names if name in FLAGS and FLAGS[name].present}
    if "widths" in given:
        given["widths"] = integers("widths")
    if given.get("train_samples") == 0:
        given["train_samples"] = None
    preset = dataclasses.replace(preset, **given)
    for name in ("base_width", "epochs", "seeds"):
        if getattr(preset, name) < 1:
            raise UserError(f"--{name}={getattr(preset, name)} is too small: give at least 1")
    if not preset.widths or min(preset.widths) < 1:
        raise UserError("--widths: give at least one width, all of at least 1")
    if FLAGS.learning_rate is not None and not 0 < FLAGS.learning_rate < float("inf"):
        raise UserError(f"--learning_rate={FLAGS.learning_rate} is not a positive number")
    return preset


def settings() -> dict[str, Any]:
    """The fields of a spec that have a flag of their own in every training experiment."""
    return {name: FLAGS[name].value for name in ("data_seed", "order", "normalization", "compute_dtype")}


def integers(flag: str) -> tuple[int, ...]:
    """The value of a comma-separated flag. Raises UserError."""
    try:
        return tuple(int(item) for item in getattr(FLAGS, flag))
    except ValueError:
        raise UserError(
            f"--{flag}={','.join(getattr(FLAGS, flag))} is not a comma-separated list of whole numbers"
        ) from None


def numbers(flag: str) -> tuple[float, ...]:
    """The value of a comma-separated flag: at least one finite number. Raises UserError."""
    given = getattr(FLAGS, flag)
    try:
        values = tuple(float(item) for item in given)
    except ValueError:
        values = ()
    if not values or not np.isfinite(values).all():
        raise UserError(f"--{flag}={','.join(given)} is not a comma-separated list of numbers")
    return values


def progress(total: float, what: str) -> tqdm:
    """Time gone and left: a bar on a terminal, a line now and then elsewhere; nothing for what is quick."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=what,
        leave=False,
        delay=1,
        mininterval=0.1 if terminal else LINE_SECONDS,
        bar_format="{l_bar}{bar}| {elapsed} elapsed, {remaining} left" + ("" if terminal else "\n"),
    )


def workdir() -> Path:
    return Path(FLAGS.workdir)


def dataset(name: str) -> data.Dataset:
    """The data set, loaded once a process. Raises UserError for one that is streamed."""
    if name in STREAMS:
        known = ", ".join(data.DATASETS)
        raise UserError(
            f"--dataset={name} is streamed, which this experiment cannot use: choose one of {known}"
        )
    return sources.dataset(name, FLAGS.data_dir)


def source_of(spec: Spec) -> Source:
    """The data that a spec trains on."""
    return sources.source_of(spec, FLAGS.data_dir)


def image_of(name: str) -> tuple[tuple[int, ...], int]:
    """(height, width, channels) and number of classes of a data set; a streamed one need not be there."""
    if name in STREAMS:
        return STREAMS[name].image_shape, STREAMS[name].classes
    return dataset(name).train_images.shape[1:], dataset(name).classes


def shapes_of(template: Spec) -> Callable[[int], Shapes]:
    """Width → kernel shapes of the template's network on its data set."""
    image, classes = image_of(template.dataset)
    return lambda width: models.build(dataclasses.replace(template, width=width), image, classes).shapes


def train(families: Iterable[Sequence[Spec]], seeds: int | Sequence[int]) -> list[runs.Result] | None:
    """Train every list of specs (one program each) with seeds 0 … seeds - 1; None after a --dry_run.

    `seeds` counts for all lists, or one by one. Returns the results of just these specs and seeds, from this and from
    earlier runs in the folder. Under --shard only a share of the lists is trained: what has no result is printed, and
    None returned when nothing has.
    """
    asked = _asked(families, seeds)
    own = asked[_shard()]
    groups = _cover(own)
    for specs, _ in asked:
        source_of(specs[0])  # bad data settings show before anything is computed
    costs = {group.name: plan.cost(group, source_of(group.specs[0])) for group in groups}
    if FLAGS.dry_run:
        finished = [FLAGS.resume and runs.record_path(workdir(), group).exists() for group in groups]
        print(plan.describe(groups, costs.values(), finished))
        return None
    if not FLAGS.resume:
        for group in groups:
            runs.set_aside(workdir(), group)
        groups = _cover(own)
        costs = {group.name: plan.cost(group, source_of(group.specs[0])) for group in groups}
    progress = Progress({name: cost.flops for name, cost in costs.items()})
    seconds = FLAGS.checkpoint_seconds
    try:
        with _sigterm() as stop:
            workers.run(
                groups,
                workdir(),
                partial(sources.source_of, data_dir=FLAGS.data_dir),
                workers=FLAGS.workers,
                costs=progress.costs,
                checkpoint_seconds=seconds,
                watch=progress,
                stop=stop,
            )
    finally:
        progress.close()
    results = _recorded(asked)
    networks = _networks(asked)
    missing = networks - {(result.spec, result.seed) for result in results}
    if missing:
        widths = ", ".join(map(str, sorted({spec.width for spec, _ in missing})))
        print(f"{len(missing)} of {len(networks)} networks have no record yet (widths {widths}): left out")
    return results or None


def recorded(families: Iterable[Sequence[Spec]], seeds: int | Sequence[int]) -> list[runs.Result]:
    """The results in the folder of just these lists of specs and seeds, as in `train`; trains nothing."""
    return _recorded(_asked(families, seeds))


Asked = list[tuple[tuple[Spec, ...], int]]  # lists of specs, each with how many seeds


def _asked(families: Iterable[Sequence[Spec]], seeds: int | Sequence[int]) -> Asked:
    lists = [tuple(specs) for specs in families]
    return list(zip(lists, [seeds] * len(lists) if isinstance(seeds, int) else seeds, strict=True))


def _cover(asked: Asked) -> list[Group]:
    counts = dict.fromkeys(count for _, count in asked)
    return [
        group
        for count in counts
        for group in runs.cover(workdir(), [specs for specs, n in asked if n == count], range(count))
    ]


def _recorded(asked: Asked) -> list[runs.Result]:
    networks = _networks(asked)
    return [r for r in runs.results(_cover(asked), workdir()) if (r.spec, r.seed) in networks]


def _networks(asked: Asked) -> set[tuple[Spec, int]]:
    return {(spec, seed) for specs, count in asked for spec in specs for seed in range(count)}


def _shard() -> slice:
    """The share of a list that --shard=i/n names: every n-th item, from the i-th. Raises UserError."""
    if FLAGS.shard is None:
        return slice(None)
    match = re.fullmatch(r"(\d+)/(\d+)", FLAGS.shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--shard={FLAGS.shard} is not a share: give i/n with i from 1 to n, such as 1/4")
    return slice(int(match[1]) - 1, None, int(match[2]))


def summary(results: Sequence[runs.Result]) -> dict[str, Any]:
    """Means and deviations over the seeds of one spec; runs that diverged are counted and left out of the means.

    Accuracies as fractions; the deviation is that of a sample (n - 1), 0 for one seed.
    """
    finished = [r for r in results if r.status == "finished"]
    row: dict[str, Any] = {"seeds": len(results), "diverged": len(results) - len(finished)}
    for split in ("train", "test", "validation"):
        if not results or f"{split}_accuracy" not in results[0].curves:
            continue
        for value in ("accuracy", "loss"):
            final = [float(r.curves[f"{split}_{value}"][-1]) for r in finished]
            row[f"{split}_{value}_mean"] = np.mean(final) if final else float("nan")
            row[f"{split}_{value}_std"] = np.std(final, ddof=1) if len(final) > 1 else 0.0
        best = [float(r.curves[f"{split}_accuracy"].max()) for r in finished]
        row[f"best_{split}_accuracy_mean"] = np.mean(best) if best else float("nan")
    return row


def write_table(
    experiment: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], digits: int = 6
) -> Path:
    """WORKDIR/<experiment>.csv, and the command that made it beside it. Floats with so many significant digits."""
    path = workdir() / f"{experiment}.csv"
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    name: f"{value:.{digits}g}" if isinstance(value, float) else value
                    for name, value in row.items()
                }
            )
    with replacing(path.with_suffix(".command")) as file:
        file.write(command() + "\n")
    return path


def command() -> str:
    """The command line of this process, as one would type it."""
    return shlex.join(["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def write_figure(experiment: str, figure: Figure) -> Path:
    """WORKDIR/<experiment>.png; the same figure gives the same bytes."""
    path = workdir() / f"{experiment}.png"
    with replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None, "Description": command()})
    return path


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """The columns of the rows, aligned."""
    cells = [[_shown(row.get(name, "")) for name in columns] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(columns)]
    for line in [list(columns), *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> str:
    """The device in a few words, for captions."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()} CPU cores"
    return f"{jax.device_count()} × {device.device_kind}"
