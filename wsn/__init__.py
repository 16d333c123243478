"""wsn: with the number of weights fixed, is a wider network better?

The packages, from the ground up: `spec` (what is trained), `devices` (where), `sparsity` (budgets, masks, families),
`data`, `networks`, `tasks`, `training`, `records`. Each imports from those before it alone, and is imported when it is
first used: `import wsn; wsn.sparsity.random_mask(…)`.
"""

import importlib
from types import ModuleType

__version__ = "0.2.0"
_PACKAGES = ("spec", "devices", "sparsity", "data", "networks", "tasks", "training", "records")


def __getattr__(name: str) -> ModuleType:
    if name in _PACKAGES:
        return importlib.import_module(f"wsn.{name}")
    raise AttributeError(f"module 'wsn' has no attribute {name!r}")
