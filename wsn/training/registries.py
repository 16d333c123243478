"""The registry of every field of a spec that holds a name; flags, errors and tests are made from this list.

Names are checked here, where training starts, so that a registry may be in a module that imports the spec. A setting
that the chosen optimizer, schedule, network or task does not read is an error, since the record would claim it.
"""

import dataclasses
from collections.abc import Collection, Mapping

from wsn.data.batches import AUGMENTATIONS
from wsn.data.language.vocabulary import TOKENIZERS
from wsn.data.normalization import NORMALIZATIONS
from wsn.data.speech.utterances import FRONT_ENDS
from wsn.data.splits import ORDERS
from wsn.errors import UserError, check_known, choose
from wsn.networks.layers import COMPUTE_DTYPES
from wsn.networks.mlp import ACTIVATIONS
from wsn.networks.models import MODELS, reads
from wsn.networks.parameterization import PARAMETERIZATIONS
from wsn.sparsity.bottleneck import BOTTLENECKS
from wsn.sparsity.patterns import PATTERNS
from wsn.spec import Spec
from wsn.tasks import TASKS
from wsn.tasks.language import LANGUAGE
from wsn.tasks.speech import SPEECH
from wsn.training.halting import STOPS
from wsn.training.optimizers import OPTIMIZERS, SCHEDULES
from wsn.training.optimizers import check as check_optimizer
from wsn.training.probes import PROBES

# Data sets are missing: any object may be a source.
REGISTRIES: Mapping[str, Collection[str]] = {
    "normalization": NORMALIZATIONS,
    "augmentation": AUGMENTATIONS,
    "order": ORDERS,
    "model": MODELS,
    "front_end": FRONT_ENDS,
    "activation": ACTIVATIONS,
    "parameterization": PARAMETERIZATIONS,
    "mask": PATTERNS,
    "bottleneck": BOTTLENECKS,
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "stop": STOPS,
    "probes": PROBES,
    "compute_dtype": COMPUTE_DTYPES,
}


def unread(model: str, task: str) -> dict[str, str]:
    """Fields of a spec that its network or its task does not read → "model" or "task"."""
    read = choose(MODELS, "model", model).fields
    networks = {field for network in MODELS.values() for field in network.fields if field not in read}
    tasks = {"normalization", "augmentation"} if task in LANGUAGE else {"sequence"}
    tasks.add("augmentation" if task in SPEECH else "bands")
    if task not in TOKENIZERS or not TOKENIZERS[task].sized:
        tasks.add("vocabulary")
    return dict.fromkeys(sorted(networks), "model") | dict.fromkeys(sorted(tasks), "task")


def check(spec: Spec) -> None:
    """Raises UserError for unknown names, and for settings that do not go together."""
    for field, registry in REGISTRIES.items():
        value = getattr(spec, field)
        for name in value if isinstance(value, tuple) else (value,):
            check_known(registry, field, name)
    check_optimizer(spec)
    if spec.stop != "epochs" and not spec.validation_samples:
        raise UserError(
            f"`stop={spec.stop}` needs the validation loss, since test data must not decide when to stop:"
            " give `validation_samples` of at least 1"
        )
    inputs = "text" if spec.task in LANGUAGE else "utterances" if spec.task in SPEECH else "images"
    if reads(spec.model) != inputs:
        names = ", ".join(sorted(name for name in MODELS if reads(name) == inputs))
        raise UserError(f"`task={spec.task}`: `model={spec.model}` cannot: choose one of {names}")
    defaults = {field.name: field.default for field in dataclasses.fields(Spec)}
    for field, chooser in unread(spec.model, spec.task).items():
        if (value := getattr(spec, field)) != defaults[field]:
            raise UserError(
                f"`{field}={value}`: `{chooser}={getattr(spec, chooser)}` does not read it: leave it out"
            )
