"""Tasks: what is minimized and what is measured.

In: a network, a batch, the carry from the batch before. Out: sums over the batch by name, and the metrics computed from
them, with unit and direction. A new task is a function model → `Task` and an entry in `TASKS`.
"""

from collections.abc import Callable
from typing import Any

from wsn.errors import choose
from wsn.networks.layers import Model
from wsn.tasks.classification import classification, regression
from wsn.tasks.language import LANGUAGE
from wsn.tasks.speech import SPEECH
from wsn.tasks.task import Carry, Context, Metric, Task, Totals

TASKS: dict[str, Callable[[Model], Task]] = {
    "classification": classification,
    "regression": regression,
    **LANGUAGE,
    **SPEECH,
}


def metrics(task: str) -> tuple[Metric, ...]:
    """The metrics of a task, which do not depend on the network. Raises UserError for an unknown one."""
    return choose(TASKS, "task", task)(_NO_NETWORK).metrics


def _unavailable(*_: Any) -> Any:
    raise TypeError("a task must call its network in training and evaluation only")


_NO_NETWORK = Model({}, {}, _unavailable, _unavailable, _unavailable)

__all__ = ["TASKS", "Carry", "Context", "Metric", "Task", "Totals", "metrics"]
