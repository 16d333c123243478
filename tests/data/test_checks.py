"""What people bring: labels that are no class, dtypes, shapes, other data under the same name."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from wsn import data
from wsn.data import batches, crops, images, sources
from wsn.data.cache import digest_of
from wsn.data.language.text import Text
from wsn.data.prepared import check_features
from wsn.data.speech.recordings import Packed, Utterance, pack
from wsn.data.splits import Splits
from wsn.data.stream import Crop, Records
from wsn.errors import UserError
from wsn.spec import Group
from wsn.training import train

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4
ARRAYS = dict(train_images=IMAGES, train_labels=LABELS, test_images=IMAGES[:8], test_labels=LABELS[:8])


def dataset(**changes) -> data.Dataset:
    return data.Dataset(**ARRAYS | {"classes": 4} | changes)


def split(dataset: data.Dataset, normalization: str = "scalar") -> Splits:
    settings = dict(train_samples=None, validation_samples=0, data_seed=0)
    return data.split(dataset, normalization=normalization, **settings)


BAD_ARRAYS = {
    "labels from 1": (dict(train_labels=LABELS + 1), "`train_labels`: the label 4 of the image 3 is none of the 4"),
    "a test label of -1": (dict(test_labels=LABELS[:8] - 1), "`test_labels`: the label -1 of the image 0 is none"),
    "too few classes": (dict(classes=3), "`train_labels`: the label 3 of the image .* none of the 3 classes"),
    "no classes": (dict(classes=0), "`classes=0`: give the number of classes"),
    "a float of classes": (dict(classes=4.0), "`classes=4.0`: give the number of classes"),
    "float labels": (dict(train_labels=LABELS * 1.0), "`train_labels`: labels of float64: give integers from 0 to 3"),
    "boolean labels": (dict(train_labels=LABELS > 1), "`train_labels`: labels of bool: give integers"),
    "labels in a column": (dict(train_labels=LABELS[:, None]), r"shape \(20, 1\): give one label an image, `train_l"),
    "one-hot labels": (dict(train_labels=np.eye(4)[LABELS]), r"`train_labels`: shape \(20, 4\).*argmax"),
    "labels missing": (dict(train_labels=LABELS[:-5]), "`train_labels`: 15 labels of 20 images"),
    "images missing": (dict(train_images=IMAGES[:-5]), "`train_labels`: 20 labels of 15 images"),
    "no channel axis": (dict(train_images=IMAGES[..., 0]), r"`train_images`: .* no channel axis: give `train_im"),
    "flat images": (dict(train_images=IMAGES.reshape(20, -1)), r"`train_images`: shape \(20, 60\): give \(imag"),
    "no test images": (dict(test_images=IMAGES[:0], test_labels=LABELS[:0]), "`test_images`: no images"),
    "no training images": (dict(train_images=IMAGES[:0], train_labels=LABELS[:0]), "`train_images`: no images"),
    "another test size": (dict(test_images=IMAGES[:8, :3]), "`test_images`: .* give images of one size"),
    "another test scale": (dict(test_images=np.float32(IMAGES[:8] / 255)), "`test_images`: .* one size, dtype and"),
    "NaN": (dict(train_images=np.where(IMAGES[7, 0, 0, 0] == IMAGES, np.float32(np.nan), IMAGES)), "not finite"),
    "float64": (dict(train_images=IMAGES / 255), "`train_images`: images of float64: convert them to one of"),
    "int64": (dict(train_images=IMAGES.astype(int)), "`train_images`: images of int64: convert them"),
    "rows of different lengths": (dict(train_images=[[1], [2, 3]]), "`train_images`: rows of different shapes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(case):
    changes, message = BAD_ARRAYS[case]
    with pytest.raises(UserError, match=message) as caught:
        dataset(**changes)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("`")
    given = dataclasses.asdict(split(dataset())) | {"sha256": None} | changes
    if "test_labels" not in changes or len(changes["test_labels"]):
        with pytest.raises(UserError, match=message):
            Splits(**given)


def test_labels_of_any_integer_type_and_lists_become_int32():
    for labels in (LABELS.astype(np.uint8), LABELS.astype(">i8"), LABELS.tolist(), jax.numpy.asarray(LABELS)):
        made = dataset(train_labels=labels, classes=np.int64(4))
        assert made.train_labels.dtype == np.int32 and made.digest == dataset().digest
        np.testing.assert_array_equal(made.train_labels, LABELS)


@pytest.mark.parametrize("normalization", ["scalar", "channel", "pixel"])
def test_16_bits_and_floats_are_normalized_like_8_bits(normalization):
    """Whatever the scale, offset or byte order: nothing is computed in the dtype of the images."""
    expected = split(dataset(), normalization)
    expected = data.normalize(expected.train_images, expected.mean, expected.std)
    wide = IMAGES.astype(np.uint16)
    for scaled in (
        257 * wide,
        (200 * wide + 9000).astype(">u2"),
        np.float32(wide / 255),
        np.float32(wide) * 1e4 - 1e5,
    ):
        one = split(dataset(train_images=scaled, test_images=scaled[:8]), normalization)
        assert one.train_images.dtype.isnative
        np.testing.assert_allclose(data.normalize(one.train_images, one.mean, one.std), expected, atol=1e-4)


def test_a_constant_has_a_standard_deviation_of_0_in_any_dtype():
    for dtype in (np.uint8, np.uint16, np.float32):
        images_ = np.full((3000, 1, 2, 1), 253, dtype)
        images_[:, 0, 1] = RANDOM.integers(0, 9, (3000, 1))
        mean, std = data.statistics(images_, "pixel")
        assert mean[0, 0] == 253 and std[0, 0] == 0 and std[0, 1] > 1


def test_white_of_imagenet_is_that_of_the_dtype():
    expected = data.statistics(IMAGES, "imagenet")
    for images_, white in ((IMAGES.astype(np.uint16) * 257, 257), (np.float32(IMAGES / 255), 1 / 255)):
        for value, of_bytes in zip(data.statistics(images_, "imagenet"), expected, strict=True):
            np.testing.assert_allclose(value, of_bytes * white, rtol=1e-6)
    with pytest.raises(UserError, match="^`normalization=imagenet`: float images must lie in 0 to 1"):
        data.statistics(IMAGES.astype(np.float32), "imagenet")


# Decoders.


def png16(channels: int) -> bytes:
    """16 bits a channel, gray or RGB."""
    import cv2

    return cv2.imencode(".png", RANDOM.integers(0, 2**16, (8, 8, channels), dtype=np.uint16))[1].tobytes()


@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_images_of_more_than_8_bits_are_refused(channels):
    for decode in (
        lambda x: images.decoded(x, (8, 8, channels)),
        lambda x: crops.decode(x, crops.center_box),
    ):
        with pytest.raises(ValueError, match="more than 8 bits a channel"):
            decode(png16(channels))


def test_float_images_are_not_decoded_as_bytes():
    file = io.BytesIO()
    Image.fromarray(np.ones((8, 8), np.float32)).save(file, "TIFF")
    with pytest.raises(ValueError, match="mode F with more than 8 bits"):
        images.decoded(file.getvalue(), (8, 8, 1))


@dataclasses.dataclass
class Feature:
    np_dtype: type = np.uint8
    num_classes: int = 10


@pytest.mark.parametrize(
    ("feature", "message"),
    [(Feature(np.uint16), "images are uint16"), (Feature(num_classes=11), "11 classes and not 10")],
)
def test_a_prepared_copy_has_8_bits_and_the_declared_classes(feature, message):
    check_features({"image": Feature(), "label": Feature()}, images.DATASETS["mnist"])
    with pytest.raises(ValueError, match=message):
        check_features({"image": feature, "label": feature}, images.DATASETS["mnist"])


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_of_a_stream_that_is_no_class_names_its_image(label):
    records = Records([{"image": b"", "label": label}], "image", "label", 10, "train", "`data_dir=here`")
    with pytest.raises(
        UserError, match=rf"^`data_dir=here`: image train\[0\] .*the label {label} is none of the 10"
    ):
        records.read(Crop(0, crops.center_box, False))


# Texts and utterances.


@pytest.mark.parametrize("tokens", [[0, 1, 5], [0, -1, 1], [0.0, 1.0], [[0], [1]]])
def test_tokens_that_are_no_symbols_are_refused(tokens):
    with pytest.raises(
        UserError, match="^`held_out`: (the token (5|-1) at [12] is none|.* one integer a token)"
    ):
        Text("mine", np.array([0, 1, 4]), np.array(tokens), tuple("abcde"), 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(labels=tiny.SPEECH.train.labels + 3), "`train.labels`: the label"),
        (dict(lengths=tiny.SPEECH.train.lengths[:-1]), "`train`: give as many"),
        (dict(lengths=tiny.SPEECH.train.lengths + 1), "`train`: give as many"),
        (dict(label_lengths=tiny.SPEECH.train.label_lengths + 5), "`train`: `label_lengths` up to"),
        (dict(frames=tiny.SPEECH.train.frames * np.nan), "`train`: its frames are not finite"),
    ],
)
def test_utterances_whose_arrays_disagree_are_refused(changes, message):
    with pytest.raises(UserError, match=f"^{message}"):
        dataclasses.replace(tiny.SPEECH, train=tiny.SPEECH.train._replace(**changes))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            Utterance("dev", np.ones((3, 2), np.float32), "A"),
            "its split 'dev' is none of train, validation, test",
        ),
        (
            Utterance("test", np.ones((3, 3), np.float32), "A"),
            r"shape \(3, 3\): give float32 of shape \(frames, 2\)",
        ),
        (Utterance("test", np.ones((3, 2)), "A"), "frames are float64"),
    ],
)
def test_utterances_unlike_the_first_are_refused(bad, message):
    good = Utterance("train", np.ones((3, 2), np.float32), "A")
    with pytest.raises(UserError, match=f"^`dataset=mine`: utterance 1.*{message}"):
        pack("mine", iter([good, bad]))


def test_packed_utterances_train_or_do_not(tmp_path):
    np.savez(tmp_path / "x.npz", cepstra=np.ones((4, 2)), lengths=[2, 2], texts=["A", "B"], train=[1, 2])
    with pytest.raises(UserError, match=r"^`data_dir=.*`: train\[1\] is 2: give 1 \(train\) or 0 \(test\)$"):
        list(Packed().utterances(str(tmp_path)))


# Digests: which data a result is of.


def test_a_digest_is_that_of_the_content():
    assert split(dataset()).digest == split(dataset()).digest == dataset().digest
    swapped = np.r_[LABELS[1], LABELS[0], LABELS[2:]]  # of a page that has the same sum
    others = [dict(train_labels=swapped), dict(test_images=IMAGES[1:9]), dict(classes=5)]
    assert len({dataset(**changes).digest for changes in [{}, *others]}) == 4
    given = dataclasses.asdict(split(dataset())) | {"sha256": None}
    assert Splits(**given).digest != Splits(**given | {"test_labels": LABELS[1:9]}).digest
    tokens = np.array([0, 1, 2], np.uint16)
    assert (
        Text("a", tokens, tokens, tuple("abc"), 1).digest
        != Text("a", tokens, tokens[::-1], tuple("abc"), 1).digest
    )
    assert len(tiny.SPEECH.digest) == 64
    long = np.zeros(2000, np.float32)
    changed = jnp.asarray(long).at[1000].set(1)
    assert digest_of([jnp.asarray(long)]) == digest_of([long]) != digest_of([changed])


def test_data_that_change_on_disk_are_opened_again(tmp_path, monkeypatch):
    """In one process, as in a notebook: the same name and folder, and other files."""
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))

    @dataclasses.dataclass
    class Mine:
        shape, classes, version = (4, 5, 3), 4, 0

        def locate(self, data_dir):
            return f"mine-{self.version}"

        def decode(self, data_dir):
            return dataset(train_images=IMAGES[::-1] if self.version else IMAGES)

    monkeypatch.setitem(images.DATASETS, "mine", Mine())
    spec = tiny.spec(dataset="mine")
    first = sources.source_of(spec)
    assert sources.source_of(spec) is first
    images.DATASETS["mine"].version = 1
    assert sources.source_of(spec).digest != first.digest


def test_a_packed_file_has_the_digest_of_its_arrays(tmp_path, monkeypatch):
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))
    spec = tiny.spec(dataset="packed", task="speech", model="deepspeech", front_end="stack")
    digests = []
    for name, said in (("a", "AB"), ("b", "AB"), ("c", "BA")):
        path = tmp_path / f"{name}.npz"
        np.savez(path, cepstra=np.ones((16, 2)), lengths=[8, 8], texts=[said, "A"], train=[1, 0])
        digests.append(sources.source_of(spec, str(path)).digest)
    assert digests[0] == digests[1] != digests[2], "the place does not matter"


# Tiny last batches.


@pytest.mark.parametrize("examples", [1, 7, 99, 100, 107, 108, 150, 1000, 1001, 1007, 1008])
def test_batches_are_spread_if_the_last_would_be_tiny(examples):
    plain, spread = (batches.positions(examples, 100, spread) for spread in (False, True))
    for cut in (plain, spread):
        np.testing.assert_array_equal(cut[cut >= 0], np.arange(examples))
        assert cut.shape == (-(-examples // 100), 100) and (np.diff(cut < 0, axis=1) >= 0).all()
    sizes = (spread >= 0).sum(1)
    if examples > 100 and 0 < examples % 100 < 8:
        assert sizes.max() - sizes.min() <= 1
    else:
        np.testing.assert_array_equal(plain, spread)


def test_an_epoch_of_a_feed_is_spread_and_counts_every_example_once():
    feed = tiny.SPLITS.feed(Group((tiny.spec(batch_size=11),), (0,)), tiny.SINGLE, spread=True)
    rows = feed.training(0, feed.steps)
    assert rows.weight.sum(-1).tolist() == [8, 8, 7] and feed.steps == 3
    assert sorted(np.asarray(rows.examples)[np.asarray(rows.weight) > 0]) == list(range(tiny.TRAIN))


@pytest.mark.parametrize(("model", "expected"), [("mlp", False), ("resnet18", True)])
def test_batches_are_spread_for_networks_with_batch_normalization(monkeypatch, model, expected):
    class Fed(Exception):
        pass

    def feed(self, group, placement, spread=False):
        assert spread is expected
        raise Fed

    monkeypatch.setattr(Splits, "feed", feed)
    with pytest.raises(Fed):
        train.prepare(Group((tiny.spec(model=model),), (0,)), tiny.SPLITS)
