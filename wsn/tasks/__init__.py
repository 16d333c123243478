"""Tasks: what is minimised and what is measured.

In: a network, a batch, what is carried from the batch before. Out: sums over the batch by name, and the metrics that
they give, with unit and direction. A new task is a function model → `Task` and a line in `TASKS`.
"""

from collections.abc import Callable

from wsn.networks.layers import Model
from wsn.tasks.classification import classification, regression
from wsn.tasks.language import LANGUAGE
from wsn.tasks.task import Carry, Context, Metric, Task, Totals

TASKS: dict[str, Callable[[Model], Task]] = {
    "classification": classification,
    "regression": regression,
    **LANGUAGE,
}

__all__ = ["TASKS", "Carry", "Context", "Metric", "Task", "Totals"]
