# %% [markdown]
# # Given the same number of weights, is a wider network better?
# Eight cells, from a budget to a figure; half a minute on two cores. Jupyter (with jupytext), VS Code and PyCharm open
# this file as a notebook; `python -m experiments.quickstart` runs it as a script.

# %% The question: a dense network of width 3 on handwritten digits has 222 weights. Are wider ones with 222 better?
from pathlib import Path

from matplotlib.figure import Figure

from wsn import data
from wsn.sparsity import family
from wsn.sparsity.shapes import mlp_shapes
from wsn.spec import Group, Spec
from wsn.training.train import train

WIDTHS, SEEDS, EPOCHS = (3, 6, 12, 18), (0, 1, 2), 60

# %% The network: one hidden layer, trained by plain SGD.
narrow = Spec(
    dataset="digits", width=3, parameterization="ntk", epochs=EPOCHS, batch_size=100, learning_rate=5.0
)

# %% The budget: how many weights each layer of a wider network keeps, so that all networks have 222.
specs = family.sparse(narrow, 3, WIDTHS, lambda width: mlp_shapes(64, [width], 10), "dense_last")
for spec in specs:
    print(spec.width, dict(spec.kept) or "dense")

# %% The data: images that come with scikit-learn, and the statistics of their pixels.
digits = data.split(
    data.load("digits"), train_samples=1000, validation_samples=0, data_seed=0, normalization="scalar"
)

# %% Training: each width with its seeds is one program, which yields an evaluation after every epoch.
accuracy = {}
for spec in specs:
    *_, last = train(Group((spec,), SEEDS), digits)
    accuracy[spec.width] = last.history.curves["test_accuracy"][-1]

# %% The answer in numbers: mean ± standard deviation over the seeds.
for width, values in accuracy.items():
    print(f"width {width:2}: {100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} %")

# %% The answer in a figure.
figure = Figure(figsize=(5, 3.4), layout="constrained")
axes = figure.subplots()
means, deviations = (
    [getattr(100 * values, what)() for values in accuracy.values()] for what in ("mean", "std")
)
axes.errorbar(list(accuracy), means, yerr=deviations, marker="o", capsize=3)
axes.set(xlabel="width, at 222 weights", ylabel="test accuracy (%)", xscale="log")
axes.set_xticks(WIDTHS, map(str, WIDTHS))
axes.minorticks_off()
figure  # noqa: B018 - in a notebook, the picture

# %% Save it. The whole experiment, resumable, with a learning rate tuned for every width and ten seeds, is
# `python -m experiments.kernel_distance`.
Path("results").mkdir(exist_ok=True)
figure.savefig("results/quickstart.png", dpi=150)
print("wrote results/quickstart.png")
