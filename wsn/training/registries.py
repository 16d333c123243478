"""Every noun that a spec names, and what it may be: the one list that flags, errors and tests are made from."""

import dataclasses
from collections.abc import Collection, Mapping

from wsn.data.batches import AUGMENTATIONS
from wsn.data.language.vocabulary import TOKENIZERS
from wsn.data.normalization import NORMALIZATIONS
from wsn.data.speech.utterances import FRONT_ENDS
from wsn.data.splits import ORDERS
from wsn.errors import UserError, check_known
from wsn.networks.layers import COMPUTE_DTYPES
from wsn.networks.mlp import ACTIVATIONS
from wsn.networks.models import MODELS, SPEECH_MODELS, TOKEN_MODELS
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

# Field of a spec → its registry. Data sets are missing: a source may be anybody's.
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
    """The fields of a spec that a network or a task does not read → the flag that chose it."""
    networks = {field for network in MODELS.values() for field in network.fields} - {*MODELS[model].fields}
    tasks = {"normalization", "augmentation"} if task in LANGUAGE else {"sequence"}
    tasks.add("augmentation" if task in SPEECH else "bands")
    if task not in TOKENIZERS or not TOKENIZERS[task].sized:
        tasks.add("vocabulary")
    return dict.fromkeys(sorted(networks), "model") | dict.fromkeys(sorted(tasks), "task")


def check(spec: Spec) -> None:
    """Raises UserError for a name that no registry has, and for settings that do not go together."""
    for field, registry in REGISTRIES.items():
        value = getattr(spec, field)
        for name in value if isinstance(value, tuple) else (value,):
            check_known(registry, field, name)
    check_optimizer(spec)
    if spec.stop != "epochs" and not spec.validation_samples:
        raise UserError(
            f"`stop={spec.stop}` looks at the validation loss, since test data may not choose:"
            " give `validation_samples` of at least 1"
        )
    fitting: Collection[str] = MODELS.keys() - TOKEN_MODELS.keys() - SPEECH_MODELS.keys()
    for tasks, networks in ((LANGUAGE, TOKEN_MODELS), (SPEECH, SPEECH_MODELS)):
        fitting = networks.keys() if spec.task in tasks else fitting
    if spec.model not in fitting:
        raise UserError(
            f"`task={spec.task}`: `model={spec.model}` cannot: choose one of {', '.join(sorted(fitting))}"
        )
    defaults = {field.name: field.default for field in dataclasses.fields(Spec)}
    for field, flag in unread(spec.model, spec.task).items():
        if (value := getattr(spec, field)) != defaults[field]:
            raise UserError(
                f"`{field}={value}`: `{flag}={getattr(spec, flag)}` does not read it: leave it out"
            )
