"""For the trial: what people bring along. Data sets with a defect, environments, trees with odd leaves.

Every check passes, raises UserError, or raises AssertionError for a result that is wrong without a word.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsn import data
from wsn.data.sources import source_of
from wsn.spec import Spec

# Images: four classes, each a bright corner, so that an image that is kept right is a scaled original.
CLASSES, COUNT, SIZE = 4, 40, 6


def images_and_labels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    images = rng.integers(0, 40, (count, SIZE, SIZE, 1))
    for image, label in zip(images, labels, strict=True):
        image[3 * (label // 2) :, 3 * (label % 2) :][:3, :3] += 150
    return images.astype(np.uint8), labels.astype(np.int32)


def _with(array: np.ndarray, value: Any) -> np.ndarray:
    array = array.copy()
    array.reshape(-1)[array.size // 2] = value
    return array


Defect = Callable[[np.ndarray], Any]
OF_IMAGES: dict[str, Defect] = {
    **{
        dtype: lambda x, dtype=dtype: x.astype(dtype)
        for dtype in ("u2", ">u2", "i1", "i2", "i4", "i8", "u4", "u8")
    },
    **{dtype: lambda x, dtype=dtype: x.astype(dtype) for dtype in ("f2", "f4", ">f4", "f8", "c8", "O", "U3")},
    "16 bits": lambda x: x.astype(np.uint16) * 257,
    "0 to 1": lambda x: (x / 255).astype(np.float32),
    "-1 to 1": lambda x: (x / 127.5 - 1).astype(np.float32),
    "1e30": lambda x: x.astype(np.float32) * np.float32(1e30),
    "1e-30": lambda x: x.astype(np.float32) * np.float32(1e-30),
    "boolean": lambda x: x > 100,
    "NaN": lambda x: _with(x.astype(np.float32), np.nan),
    "infinite": lambda x: _with(x.astype(np.float32), np.inf),
    "constant": lambda x: np.full_like(x, 7),
    "no channels": lambda x: x[..., 0],
    "channels first": lambda x: np.moveaxis(x, -1, 1),
    "five axes": lambda x: x[None],
    "flat": lambda x: x.reshape(len(x), -1),
    "another size": lambda x: x[:, 1:],
    "no height": lambda x: x[:, :0],
    "no images": lambda x: x[:0],
    "one image": lambda x: x[:1],
    "one less": lambda x: x[1:],
    "list": list,
    "nested lists": lambda x: x.tolist(),
    "ragged": lambda x: [image[: 3 + i % 2] for i, image in enumerate(x)],
    "masked": np.ma.masked_array,
    "strided": lambda x: np.repeat(x, 2, 0)[::2],
    "reversed": lambda x: x[::-1][::-1],
    "Fortran": np.asfortranarray,
    "read-only": lambda x: np.lib.stride_tricks.as_strided(x, writeable=False),
    "matrix": lambda x: np.asmatrix(x[..., 0, 0]),
    "None": lambda x: None,
}
OF_LABELS: dict[str, Defect] = {
    **{
        dtype: lambda y, dtype=dtype: y.astype(dtype)
        for dtype in ("i1", "u1", "i8", "u8", ">i4", "f4", "O", "U1", "c8")
    },
    "from 1": lambda y: y + 1,
    "from -1": lambda y: y - 1,
    "one too large": lambda y: _with(y, CLASSES),
    "one negative": lambda y: _with(y, -1),
    "255 for unknown": lambda y: _with(y.astype(np.uint8), 255),
    "huge": lambda y: _with(y.astype(np.int64), 2**32 + 1),
    "NaN": lambda y: _with(y.astype(np.float32), np.nan),
    "halves": lambda y: y + 0.5,
    "boolean": lambda y: y > 0,
    "column": lambda y: y[:, None],
    "row": lambda y: y[None],
    "one-hot": lambda y: np.eye(CLASSES, dtype=np.float32)[y],
    "fewer": lambda y: y[:-5],
    "more": lambda y: np.r_[y, y[:5]],
    "none": lambda y: y[:0],
    "scalar": lambda y: 3,
    "list": lambda y: y.tolist(),
    "names": lambda y: [f"class {label}" for label in y],
    "None": lambda y: None,
}
OF_CLASSES: dict[str, Callable[[int], Any]] = {
    **{
        str(value): lambda c, value=value: value
        for value in (0, -1, 1, 3, 5, 4.0, 4.5, "4", None, True, 10**12)
    },
    "NumPy": np.int64,
    "array": lambda c: np.array(c),
}
FIELDS = {
    "train_images": OF_IMAGES, "train_labels": OF_LABELS, "test_images": OF_IMAGES, "test_labels": OF_LABELS,
    "classes": OF_CLASSES,
}  # fmt: skip


def check_images(field: str, defect: str, normalization: str) -> None:
    """Own arrays with a defect are refused, or are the images and labels that they stand for."""
    clean = dict(
        zip(FIELDS, (*images_and_labels(COUNT, 0), *images_and_labels(COUNT // 2, 1), CLASSES), strict=True)
    )
    given = clean | {field: FIELDS[field][defect](clean[field])}
    settings: Any = dict(train_samples=None, validation_samples=5, data_seed=0, normalization=normalization)
    splits = data.split(data.Dataset(**given), **settings)
    reference = data.split(data.Dataset(**clean), **settings)
    assert splits.classes >= CLASSES  # classes that do not occur are allowed
    for split in ("train", "validation", "test"):
        labels, images = getattr(splits, f"{split}_labels"), getattr(splits, f"{split}_images")
        assert labels.shape == (len(images),) and labels.dtype.kind in "iu"
        if f"{split}_labels" != "test_labels" or defect not in ("one less",):
            np.testing.assert_array_equal(labels, getattr(reference, f"{split}_labels"))
        inputs, expected = (
            np.asarray(data.normalize(x, s.mean, s.std))
            for x, s in ((images, splits), (getattr(reference, f"{split}_images"), reference))
        )
        assert inputs.dtype == np.float32 and np.isfinite(inputs).all()
        if defect not in ("constant", "boolean"):
            assert np.corrcoef(inputs.ravel(), expected.ravel())[0, 1] > 0.999
        if (
            normalization != "imagenet"
            and split == "train"
            and field != "test_images"
            and defect != "constant"
        ):
            assert 0.5 < inputs.std() < 2


# Texts: three files.

OF_TEXTS: dict[str, bytes] = {
    "empty": b"",
    "one letter": b"a",
    "one line": b"the cat sat " * 50,
    "blank": b" \n\n\t \n",
    "no newline at the end": b"abc abd\n" * 40 + b"abc",
    "Windows": b"abc abd\r\n" * 40,
    "byte order mark": b"\xef\xbb\xbf" + b"abc abd\n" * 40,
    "UTF-16": ("abc abd\n" * 40).encode("utf-16"),
    "Latin-1": ("très bête\n" * 40).encode("latin-1"),
    "NUL": b"abc\x00abd\n" * 40,
    "emoji": "cat 🐈 sat\n".encode() * 40,
    "combining": "e\u0301a\u0300\n".encode() * 40,
    "cut character": "abc é\n".encode() * 40 + b"\xc3",
    "letters of its own": b"xyz zyx\n" * 40,
}


def check_text(folder: Path, split: str, defect: str, task: str, vocabulary: int) -> None:
    """A text with a defect is refused, or its tokens are those of the symbols."""
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_bytes(OF_TEXTS[defect] if name == split else b"abc abd bad\n" * 60)
    spec = Spec(
        dataset="text", task=task, model="lstm", width=4, epochs=1, batch_size=2, learning_rate=0.1, sequence=5,
        vocabulary=vocabulary,
    )  # fmt: skip
    source: Any = source_of(spec, str(folder))
    assert source.classes == len(source.symbols) > 0
    for tokens in (source.train, source.held_out):
        assert len(tokens) and tokens.min() >= 0 and tokens.max() < source.classes


# Utterances: an .npz file.

OF_UTTERANCES: dict[str, dict[str, Any]] = {
    "none": {},
    "NaN": {"features": np.full((60, 4), np.nan, np.float32)},
    "infinite": {"features": np.full((60, 4), np.inf, np.float32)},
    "constant": {"features": np.zeros((60, 4), np.float32)},
    "float64": {"features": np.random.default_rng(0).normal(size=(60, 4))},
    "float16": {"features": np.random.default_rng(0).normal(size=(60, 4)).astype(np.float16)},
    "integers": {"features": np.random.default_rng(0).integers(0, 9, (60, 4))},
    "complex": {"features": np.ones((60, 4), np.complex64)},
    "objects": {"texts": np.array(["ab", "ba", "ab", "b", "a", "ab"], object)},
    "bytes": {"texts": np.array([b"ab", b"ba", b"ab", b"b", b"a", b"ab"])},
    "one axis": {"features": np.zeros(60, np.float32)},
    "no features": {"features": np.zeros((60, 0), np.float32)},
    "too long": {"lengths": np.full(6, 11)},
    "negative": {"lengths": np.array([10, 10, 10, 10, 30, -10])},
    "zero": {"lengths": np.array([10, 10, 10, 10, 20, 0])},
    "floats": {"lengths": np.full(6, 10.0)},
    "fewer lengths": {"lengths": np.full(5, 12)},
    "empty texts": {"texts": np.array([""] * 6)},
    "blank texts": {"texts": np.array([" "] * 6)},
    "long texts": {"texts": np.array(["ab" * 50] * 6)},
    "new letters": {"texts": np.array(["ab", "ba", "ab", "b", "xyz", "q"])},
    "Unicode": {"texts": np.array(["é", "è", "é", "è", "é", "è"])},
    "all train": {"train": np.ones(6, bool)},
    "none trains": {"train": np.zeros(6, bool)},
    "floats of train": {"train": np.ones(6)},
    "missing": {"texts": None},
    "another": {"speakers": np.arange(6)},
}


def check_utterances(folder: Path, defect: str, normalization: str) -> None:
    """Utterances with a defect are refused, or their frames are finite and their labels letters."""
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(60, 4)).astype(np.float32),
        "lengths": np.full(6, 10),
        "texts": np.array(["ab", "ba", "ab", "b", "a", "ab"]),
        "train": np.array([1, 1, 1, 1, 0, 0], bool),
    } | OF_UTTERANCES[defect]
    np.savez(folder / "sounds.npz", **{name: array for name, array in arrays.items() if array is not None})
    spec = Spec(
        dataset="packed", task="speech", model="deepspeech", width=4, epochs=1, batch_size=2, learning_rate=0.1,
        front_end="stack", normalization=normalization,
    )  # fmt: skip
    source: Any = source_of(spec, str(folder / "sounds.npz"))
    for spoken in (source.train, source.held_out):
        assert np.isfinite(spoken.frames).all() and spoken.labels.max() < source.classes
        assert (spoken.lengths > 0).all() and spoken.lengths.sum() == len(spoken.frames)


# Environments: variables that notebooks, schedulers and containers set, with values that occur and nonsense.

NONSENSE = ("", "0", "-1", "x", " ", "é", "99999999999", "/nonexistent", "/dev/null")
NUMBERS = ("1", "2", "64")
VARIABLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"), NUMBERS
    ),
    **dict.fromkeys(
        ("SLURM_CPUS_PER_TASK", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_NODELIST"), ("1", "node[1-2]")
    ),
    **dict.fromkeys(
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMI_SIZE", "WORLD_SIZE"), NUMBERS
    ),
    **dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC", "PJRT_NPROC"), NUMBERS
    ),
    **dict.fromkeys(("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "HOSTNAME"), ("10.0.0.1",)),
    "JAX_PLATFORMS": ("cpu", "cuda", "gpu", "tpu", "cuda,cpu", "CPU"),
    **dict.fromkeys(
        ("JAX_ENABLE_X64", "JAX_DEBUG_NANS", "JAX_LOG_COMPILES", "JAX_DISABLE_JIT"), ("true", "False")
    ),
    "JAX_ENABLE_COMPILATION_CACHE": ("true", "false"),
    "JAX_COMPILATION_CACHE_DIR": ("jit",),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": ("0", "1.5"),
    "JAX_DEFAULT_MATMUL_PRECISION": ("highest", "bfloat16"),
    "JAX_DEFAULT_PRNG_IMPL": ("rbg", "threefry2x32"),
    "JAX_NUM_CPU_DEVICES": ("1", "2"),
    "JAX_TRACEBACK_FILTERING": ("off",),
    "XLA_FLAGS": (
        "--xla_force_host_platform_device_count=2",
        "--xla_cpu_enable_fast_math=true",
        "--xla_nothing=1",
    ),
    **dict.fromkeys(("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"), ("0", "0,1", "NoDevFiles", "all")),
    **dict.fromkeys(("XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION"), ("false", ".5")),
    "MPLBACKEND": ("agg", "module://matplotlib_inline.backend_inline", "TkAgg", "nbagg"),
    "MPLCONFIGDIR": ("mpl",),
    **dict.fromkeys(("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CI", "COLAB_GPU"), NUMBERS),
    "TERM": ("dumb", "xterm-256color"),
    **dict.fromkeys(
        ("LC_ALL", "LANG", "LC_CTYPE", "LC_NUMERIC"), ("C", "POSIX", "C.UTF-8", "de_DE.UTF-8", "tr_TR")
    ),
    **dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), ("/", ".")),
    **dict.fromkeys(("USER", "LOGNAME", "SHELL", "PATH", "PWD"), ("root",)),
    "CXX": ("g++", "false", "no-such-compiler"),
    **dict.fromkeys(("TFDS_DATA_DIR", "WSN_CACHE_DIR"), ("~/x", "gs://bucket", "a b")),
    **dict.fromkeys(("TQDM_MININTERVAL", "TQDM_DISABLE", "TQDM_NCOLS", "TQDM_ASCII"), NUMBERS),
    **dict.fromkeys(("GIT_DIR", "GIT_WORK_TREE", "GIT_CEILING_DIRECTORIES"), (".",)),
    **dict.fromkeys(("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS", "ABSL_LOGGING_VERBOSITY"), NUMBERS),
}
# Python itself does not start with nonsense in these.
OF_PYTHON: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("PYTHONUTF8", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED"), ("0", "1")
    ),
    **dict.fromkeys(
        ("PYTHONOPTIMIZE", "PYTHONFAULTHANDLER", "PYTHONSAFEPATH", "PYTHONCOERCECLOCALE"), ("0", "1")
    ),
    "PYTHONIOENCODING": ("ascii", "utf-8", "latin-1", "ascii:strict"),
    "PYTHONWARNINGS": ("ignore", "default", "once"),
}


def environment(rng: random.Random) -> dict[str, str]:
    """One to three variables."""
    known = VARIABLES | OF_PYTHON
    names = rng.sample(list(known), rng.choice([1, 1, 2, 3]))
    return {name: rng.choice((*known[name], *(() if name in OF_PYTHON else NONSENSE))) for name in names}


# Trees of parameters.


class Pair(NamedTuple):
    first: Any
    second: Any


def leaf(rng: random.Random) -> Any:
    import jax
    import jax.numpy as jnp

    shape = rng.choice(
        [(), (0,), (1,), (5,), (3, 4), (4, 4), (0, 3), (1, 1), (3, 3, 2, 4), (2, 3, 4), (2,) * 6, (64, 32)]
    )
    dtype = rng.choice(
        [*["float32"] * 6, "bfloat16", "float16", "float64", "int32", "bool", "complex64", "uint8"]
    )
    kinds: list[Callable[[], Any]] = [
        *[lambda: jnp.ones(shape, dtype if dtype != "float64" else "float32")] * 6,
        lambda: np.ones(shape, dtype if dtype != "bfloat16" else np.float32),
        lambda: jax.ShapeDtypeStruct(shape, dtype),
        lambda: np.full(shape, np.nan, np.float32),
        lambda: np.asfortranarray(np.ones(shape, np.float32)),
        lambda: jax.random.key(0),
        lambda: 1.0,
        lambda: 3,
        lambda: True,
        lambda: None,
        lambda: "text",
        lambda: np.array(["a", "b"]),
        lambda: np.array([[1.0, 2.0]], object),
    ]
    if rng.random() < 0.8:
        return jnp.ones(rng.choice([(5,), (3, 4), (4, 4), (3, 3, 2, 4), (64, 32)]))
    return rng.choice(kinds)()


def tree(rng: random.Random, depth: int = 0) -> Any:
    if depth == 3 or (depth and rng.random() < 0.5):
        return leaf(rng)
    names = ["kernel", "bias", "embedding", "a/b", "a", "b", "", ".", "é", "0", "scale", "w" * 200]
    count = rng.choice([0, 1, 2, 2, 3])
    children = [tree(rng, depth + 1) for _ in range(count)]
    container = rng.choice(["dict", "dict", "dict", "list", "tuple", "pair", "integers"])
    if container == "pair" and count >= 2:
        return Pair(*children[:2])
    if container in ("list", "tuple"):
        return children if container == "list" else tuple(children)
    return dict(
        zip(range(count) if container == "integers" else rng.sample(names, count), children, strict=True)
    )


def check_tree(rng: random.Random) -> None:
    """A tree is refused, or has a mask of the right number of weights, and an optimizer keeps the others at 0."""
    import jax
    import jax.numpy as jnp
    import optax

    from wsn import sparsity

    params = tree(rng)
    budgets: list[Any] = [
        *({"total": total} for total in (0, 1, 7, 20, 10**9, -1, 2.5, "7", np.int64(9), np.array(5), np.nan, None)),
        *({"connectivity": c} for c in (0.5, 0.1, 1, 1.0, 0, -0.5, 1.5, np.nan, "0.5", np.float32(0.3), 1e-9)),
        {}, {"total": 5, "connectivity": 0.5}, {"like": tree(rng)},
    ]  # fmt: skip
    budget = rng.choice(budgets)
    names: dict[str, Any] = {}
    if rng.random() < 0.6:
        names["pattern"] = rng.choice([*sparsity.PATTERNS, "no pattern", "", None])
    if rng.random() < 0.6:
        names["distribution"] = rng.choice([*sparsity.DISTRIBUTIONS, "no distribution", "", 3])
    mask = sparsity.random_mask(params, key=jax.random.key(rng.randrange(9)), **budget, **names)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    kept = sum(sparsity.num_kept(mask).values())
    if "total" in budget and names.get("pattern", "elementwise") == "elementwise":
        assert kept == int(budget["total"])
    start = sparsity.mask_and_rescale(params, mask)
    if not all(jnp.issubdtype(jnp.result_type(value), jnp.floating) for value in jax.tree.leaves(start)):
        return  # optax updates floats
    optimizer = sparsity.with_static_mask(rng.choice([optax.sgd(0.1, 0.9), optax.adam(0.1)]), mask)
    gradients = jax.tree.map(jnp.ones_like, start)  # whose leaves are arrays, as the docstring promises
    updates, _ = optimizer.update(gradients, optimizer.init(start), start)
    after = optax.apply_updates(start, updates)
    for place, value in zip(jax.tree.leaves(mask), jax.tree.leaves(after), strict=True):
        if np.ndim(place):
            assert (np.asarray(value)[~np.asarray(place)] == 0).all()
