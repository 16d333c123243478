import pytest
import tiny

from experiments.lab import flags
from experiments.width import layer_sparsity as script
from wsn.errors import UserError
from wsn.sparsity.shapes import mlp_shapes, resnet18_shapes, sizes

FIGURE10 = (12, 18, 27, 40, 60, 91)


@pytest.fixture(scope="module")
def members():
    return script.members(script.Settings(widths=FIGURE10))


@pytest.mark.parametrize(
    ("classes", "weights"),
    [
        (10, {8: 175_192, 12: 393_540, 18: 884_502, 40: 4_362_680, 64: 11_164_352}),
        (100, {8: 180_952, 12: 402_180, 18: 897_462, 40: 4_391_480, 64: 11_210_432}),
    ],
)
def test_resnet18_has_its_number_of_weights(classes, weights):
    assert {width: sum(sizes(resnet18_shapes(width, classes)).values()) for width in weights} == weights


def test_mlp_has_its_number_of_weights():
    assert sum(sizes(mlp_shapes(784, [8], 10)).values()) == 6352
    assert mlp_shapes(784, [5, 7], 10) == {"hidden_0": (784, 5), "hidden_1": (5, 7), "output": (7, 10)}


def test_layers_of_figure_10(members):
    assert " ".join(members[0].size) == (
        "conv1 layer1.0.conv1 layer1.0.conv2 layer1.1.conv1 layer1.1.conv2"
        " layer2.0.conv1 layer2.0.conv2 layer2.0.shortcut.0 layer2.1.conv1 layer2.1.conv2"
        " layer3.0.conv1 layer3.0.conv2 layer3.0.shortcut.0 layer3.1.conv1 layer3.1.conv2"
        " layer4.0.conv1 layer4.0.conv2 layer4.0.shortcut.0 layer4.1.conv1 layer4.1.conv2 linear"
    )


def test_total_sparsities_of_figure_10_to_the_printed_digit(members):
    printed = {18: "79.84", 27: "90.99", 40: "95.88", 60: "98.16", 91: "99.20"}
    assert {m.width: f"{m.total_sparsity:.2f}" for m in members if m.width in printed} == printed
    assert {width: f"{total:.2f}" for width, total in script.PAPER_TOTALS.items()} == printed


def test_layer_sparsities_of_figure_10_to_the_printed_digit(members):
    """The bars of widths 18, 27 and 60, from top to bottom, as printed; other layers stay whole."""
    printed = {
        18: "45.5 72.8 72.8 72.8 86.4 93.2 93.2 93.2 11.8",
        27: "20.1 60.1 60.1 60.1 80.0 90.0 90.0 90.0 95.0 97.5 55.1 97.5 97.5 51.5",
        60: "72.0 72.0 72.0 72.0 86.0 93.0 93.0 93.0 96.5 98.3 68.5 98.3 98.3 99.1 99.6 92.1 99.6 99.6 81.1",
    }
    assert script.PAPER_LAYERS.keys() == printed.keys()
    for member in members:
        if member.width in printed:
            ours = {name: f"{member.sparsity(name):.1f}" for name in member.size if member.sparsity(name)}
            assert " ".join(ours.values()) == printed[member.width]
            assert ours == {name: f"{x:.1f}" for name, x in member.printed.items()}


def test_every_width_keeps_the_budget(members):
    assert {sum(m.kept.values()) for m in members} == {180_952}


def test_csv_has_a_row_per_layer_and_width(members):
    rows = script.rows(members)
    assert list(rows[0]) == ["width", "layer", "size", "kept", "sparsity_percent"]
    assert len(rows) == len(FIGURE10) * 21
    row = next(r for r in rows if r["width"] == 27 and r["layer"] == "layer2.0.conv1")
    assert row["size"] == 9 * 27 * 54 and f"{row['sparsity_percent']:.1f}" == "20.1"


def test_other_families_of_the_papers_widths_are_not_compared_with_it():
    given = {"model": "mlp", "num_classes": 10, "distribution": "dense_last", "widths": (8, 18)}
    *_, total = script.table(script.members(script.Settings(**given)), paper=False)
    assert total.keys() == {"layer", "width 8", "width 18"} and "(" not in total["width 18"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths=4,8"], "`widths`: 4 is below the base width"),
        (["--distribution=even"], "`widths=8`: `distribution=even`"),
        (
            ["--model=mlp", "--widths=636", "--num_classes=10", "--distribution=dense_last"],
            "`widths=636`: the last layer",
        ),
    ],
    ids=" ".join,
)
def test_bad_input_names_its_argument(arguments, message):
    with pytest.raises(UserError, match=f"^{message}"):
        script.members(flags.parse(script.COMMAND, arguments)[0])
    with pytest.raises(UserError, match="^`model=vgg`"):
        script.members(script.Settings(model="vgg"))


def test_the_command_writes_table_and_figure(tmp_path):
    done = tiny.run_experiment("layer_sparsity", f"--workdir={tmp_path}/out", "--widths=8,18")
    assert done.returncode == 0 and "79.84 (79.84)" in done.stdout
    written = [path.name for path in (tmp_path / "out").iterdir()]
    assert sorted(written) == [f"layer_sparsity.{kind}" for kind in ("command", "csv", "png", "said.json")]
