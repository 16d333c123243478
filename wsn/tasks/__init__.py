"""Tasks: what is minimised and what is measured.

In: a network, a batch, what is carried from the batch before. Out: sums over the batch by name, and the metrics that
they give, with unit and direction. A new task is a function model → `Task` and a line in `TASKS`.
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
    """What a task measures, whatever the network. Raises UserError for an unknown one."""
    return choose(TASKS, "task", task)(_NO_NETWORK).metrics


def _absent(*_: Any) -> Any:
    raise TypeError("a task calls its network in training and evaluation alone")


_NO_NETWORK = Model({}, {}, _absent, _absent, _absent)

__all__ = ["TASKS", "Carry", "Context", "Metric", "Task", "Totals", "metrics"]
