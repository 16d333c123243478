"""Utterances: spectrograms, sets by name from generated audio, what is dropped, held out and refused; batches."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny

from wsn import devices
from wsn.data import cache, feeds
from wsn.data.batches import AUGMENTATIONS
from wsn.data.language.text import Text
from wsn.data.normalization import float_statistics
from wsn.data.speech import recordings, utterances
from wsn.data.speech.audio import FLOOR, log_spectrogram
from wsn.data.speech.recordings import SPLITS, UTTERANCES
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.records import plan
from wsn.spec import Group, Spec

DEVICES = tuple(jax.local_devices())
SINGLE = Placement("single", DEVICES[:1])


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A cache of its own, and sets opened anew."""
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))
    cache.once.cache_clear()
    utterances.prepared.cache_clear()


def spec(**changes) -> Spec:
    return tiny.spec(**dict(dataset="packed", task="speech", model="deepspeech", front_end="stack") | changes)


# Spectrograms.


@pytest.mark.parametrize(("rate", "bins"), [(8000, 81), (16_000, 161)])
def test_a_tone_is_loudest_at_its_frequency_whatever_its_power(rate, bins):
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    found = log_spectrogram(tone, rate)
    assert found.shape == (99, bins), "20 ms windows, 10 ms apart"
    assert (found.argmax(1) == 1000 // 50).all()
    np.testing.assert_allclose(log_spectrogram(100 * tone, rate), found, atol=1e-3)
    assert found.min() >= np.log(np.float32(FLOOR)) - 1e-5


def test_audio_without_a_window_or_without_sound_has_no_frames_that_are_finite():
    assert log_spectrogram(np.ones(10, np.int16), 8000).shape == (0, 81)
    assert not np.isfinite(log_spectrogram(np.zeros(8000, np.int16), 8000)).any()


# Sets from generated audio.


SOUND, TEXT = tfds.features.Tensor(shape=(None,), dtype=np.int64), tfds.features.Text()


def noise(seed: int, samples: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-999, 1000, samples)


def test_librispeech_from_generated_audio(tmp_path):
    said = {"train_clean100": "IT'S A DOG", "train_clean360": "DO", "train_other500": "A"}
    said |= {"dev_clean": "GO", "test_clean": "ODD CAT"}
    parts = {
        part: [{"speech": noise(i, 16_000), "text": text, "id": part}]
        for i, (part, text) in enumerate(said.items())
    }
    tiny.write_copy(
        tmp_path, UTTERANCES["librispeech"].name, {"speech": SOUND, "text": TEXT, "id": TEXT}, parts
    )
    found = recordings.load("librispeech", str(tmp_path))
    assert found.frames.shape == (5 * 99, 161) and found.split.tolist() == [0, 0, 0, 1, 2]
    assert found.letters == tuple(" 'ADGIOST")
    assert "".join(found.letters[n - 1] for n in found.labels[0] if n) == "IT'S A DOG"
    np.testing.assert_allclose(found.frames[:99], log_spectrogram(noise(0, 16_000), 16_000))
    assert recordings.load("librispeech", str(tmp_path / ".")).frames.filename, "mapped from the cache"
    usable = utterances.alignable(found, 2)
    assert usable.tolist() == [True] * 4 + [False], "C is no letter of the training transcripts"


def test_strings_of_spoken_digits_share_no_recording_between_splits(tmp_path, monkeypatch):
    """Each recording is a constant-free tone of its own length, so that lengths say what was joined."""
    digits = [
        {"audio": noise(n, 400 + 7 * n), "audio/filename": f"{digit}_{speaker}_{number}.wav", "label": digit}
        for n, (speaker, digit, number) in enumerate(
            (speaker, digit, number)
            for speaker in "ab"
            for digit in (3, 7)
            for number in (0, 4, 5, 9, 10, 11)
        )
    ]
    features = {"audio": SOUND, "audio/filename": TEXT, "label": tfds.features.Scalar(np.int64)}
    tiny.write_copy(tmp_path, "spoken_digit:1.0.9", features, {"train": digits})
    heard = {np.float32(one["audio"]).tobytes(): one["audio/filename"] for one in digits}

    def listen(audio, rate):
        files, rest = [], audio
        while len(rest):
            [file, size] = next(
                [file, len(x) // 4] for x, file in heard.items() if rest[: len(x) // 4].tobytes() == x
            )
            files.append(file)
            rest = rest[size:]
        listened.append(files)
        return log_spectrogram(audio, rate)

    listened: list[list[str]] = []
    monkeypatch.setattr(recordings, "log_spectrogram", listen)
    sounds = recordings.SpokenDigits(counts=(20, 5, 5))
    found = list(sounds.utterances(str(tmp_path)))
    assert [one.split for one in found] == ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
    numbers = {"train": {10, 11}, "validation": {5, 9}, "test": {0, 4}}
    for one, files in zip(found, listened, strict=True):
        assert 3 <= len(files) <= 6 and len({file.split("_")[1] for file in files}) == 1, "one speaker"
        assert {int(file.split("_")[2][:-4]) for file in files} <= numbers[one.split]
        assert one.text == " ".join(recordings.DIGITS[int(file[0])] for file in files)
    again = list(sounds.utterances(str(tmp_path)))
    assert [one.text for one in again] == [one.text for one in found]


def test_lines_of_digits_are_columns_of_images_that_splits_do_not_share():
    found = recordings.load("digit_lines")
    assert found.letters == tuple("0123456789") and found.frames.shape[1] == 8
    np.testing.assert_array_equal(found.lengths, 8 * found.label_lengths)
    assert set(found.label_lengths) == {1, 2, 3, 4, 5}
    images = np.asarray(found.frames).reshape(-1, 64)
    split = np.repeat(found.split, found.label_lengths)
    own = [{image.tobytes() for image in images[split == number]} for number in range(len(SPLITS))]
    assert all(map(len, own)) and not (own[0] & own[1] or own[0] & own[2] or own[1] & own[2])


# Packed features.


def pack(path: Path, lengths=(9, 6, 12, 9, 7), texts=("AB", "BA", "AAB", "B", "A"), **changes) -> Path:
    random = np.random.default_rng(0)
    arrays = {
        "cepstra": random.normal(3, 2, (sum(lengths), 4)).astype(np.float32),
        "lengths": np.array(lengths),
        "texts": np.array(texts),
        "train": np.array([True, True, True, True, False]),
    }
    arrays |= changes
    np.savez(path / "some.npz", **{name: x for name, x in arrays.items() if x is not None})
    return path / "some.npz"


def test_packed_features_are_normalised_by_the_training_split(tmp_path):
    path = pack(tmp_path)
    for folder in (path, tmp_path):  # a file, or the folder that has it
        source = utterances.source_of(spec(normalization="pixel"), str(folder))
        assert isinstance(source, feeds.Source)
        assert source.input_shape == (12, 4) and source.classes == 3 and source.num_examples(spec()) == (4, 1)
        np.testing.assert_allclose(source.train.frames.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(source.train.frames.std(0), 1, atol=1e-5)
    scalar = utterances.source_of(spec(), str(path)).train.frames
    assert scalar.std() == pytest.approx(1, abs=1e-5) and np.abs(scalar.std(0) - 1).max() > 1e-3


def test_statistics_are_those_of_all_frames_at_once():
    """And no feature that never changes has a deviation."""
    frames = np.random.default_rng(0).normal(-7, 2, (50, 3)).astype(np.float32)
    frames[:, 1] = 0.1
    for normalization, axis in (("pixel", 0), ("scalar", None)):
        mean, deviation = float_statistics(
            np.split(frames, [7, 30]), utterances.NORMALIZATIONS[normalization]
        )
        np.testing.assert_allclose(mean.squeeze(), frames.mean(axis, np.float64), rtol=1e-12)
        np.testing.assert_allclose(deviation.squeeze(), frames.std(axis, np.float64), rtol=1e-12, atol=1e-12)
        assert axis is None or deviation[0, 1] == 0


def test_bands_are_a_linear_map_of_cepstra_that_a_cosine_transform_undoes():
    cepstra = np.random.default_rng(0).normal(size=(5, 13)).astype(np.float32)
    found = utterances.log_bands(cepstra, 40)
    basis = np.cos(np.pi / 40 * np.arange(13)[:, None] * (np.arange(40) + 0.5)) * (2 / 40) ** 0.5
    basis[0] /= 2**0.5
    np.testing.assert_allclose(found, cepstra @ basis, atol=1e-5)
    np.testing.assert_allclose(found @ basis.T, cepstra, atol=1e-5)


def test_validation_is_held_out_of_training_and_never_test(tmp_path):
    path = str(pack(tmp_path))
    whole = utterances.source_of(spec(), path)
    cut = utterances.source_of(spec(validation_samples=1, train_samples=2), path)
    frames = lambda spoken: {row.tobytes() for row in spoken.frames}  # noqa: E731
    assert cut.num_examples(spec(validation_samples=1)) == (2, 1)
    assert frames(cut.held_out) < frames(whole.train) and not frames(cut.held_out) & frames(whole.held_out)
    assert not frames(cut.train) & frames(cut.held_out)


def test_what_ctc_cannot_align_is_dropped_and_counted(tmp_path, caplog):
    """Three letters of which two are equal need four outputs: ten frames of stride 3, and not nine."""
    path = pack(tmp_path, lengths=(9, 6, 9, 9, 7))
    source = utterances.source_of(spec(), str(path))
    assert source.num_examples(spec()) == (3, 1)
    assert "1 of 5 utterances dropped" in caplog.text and "front_end=stack" in caplog.text
    assert utterances.source_of(spec(front_end="conv"), str(path)).num_examples(spec()) == (4, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cepstra": np.zeros((42, 4), np.float32)}, "its arrays do not fit together"),
        ({"texts": np.array(["AB", "BA"])}, "its arrays do not fit together"),
        ({"train": None, "cepstra": None}, "has no train, features \\(or cepstra\\)"),
        ({"train": np.zeros(5, bool)}, "its train split is empty"),
        ({"train": np.ones(5, bool)}, "its test split is empty"),
        ({"texts": np.array(["AB", " ", "B", "A", "A"])}, "utterance 1 .* a transcript without letters"),
        ({"cepstra": np.full((43, 4), np.nan, np.float32)}, "utterance 0 of its train split is broken"),
        ({"texts": np.array(["ABABABAB"] * 5)}, "CTC can align no training utterance"),
    ],
)
def test_broken_packed_features_are_told_in_one_line(tmp_path, changes, said):
    path = pack(tmp_path, **changes)
    with pytest.raises(UserError, match=f"^`(data_dir|dataset|front_end)=[^\n]*{said}[^\n]*$"):
        utterances.source_of(spec(), str(path))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bands": 3}, "^`bands=3`: give at least 4"),
        ({"dataset": "digit_lines", "bands": 40}, "^`bands=40`: `dataset=digit_lines` has no cepstra"),
        ({"normalization": "channel"}, "^`normalization=channel` is for images: choose one of scalar, pixel"),
        ({"validation_samples": 4}, "^`validation_samples=4`: choose 0 to 3"),
        ({"train_samples": 5}, "^`train_samples=5`: choose 1 to 4"),
    ],
)
def test_settings_that_do_not_fit_name_their_flag(tmp_path, changes, said):
    path = pack(tmp_path)
    with pytest.raises(UserError, match=said):
        utterances.source_of(spec(**changes), str(path))


def test_features_that_are_no_cepstra_have_no_bands(tmp_path):
    path = pack(tmp_path, cepstra=None, features=np.random.default_rng(0).normal(size=(43, 4)))
    with pytest.raises(UserError, match="^`bands=40`: `dataset=packed` has no cepstra; leave it out$"):
        utterances.source_of(spec(bands=40), str(path))


def test_files_that_are_not_there_or_no_npz_are_told(tmp_path):
    for folder, said in ((None, "give an .npz file"), (str(tmp_path), "no .npz file there, or several")):
        with pytest.raises(UserError, match=said):
            utterances.source_of(spec(), folder)
    (tmp_path / "broken.npz").write_bytes(b"PK nonsense")
    with pytest.raises(UserError, match="cannot be read as .npz"):
        utterances.source_of(spec(), str(tmp_path))


def test_a_batch_that_needs_more_memory_than_there_is_is_refused(monkeypatch, tmp_path):
    small, large = (Group((spec(width=200, batch_size=size),), (0,)) for size in (2, 11))
    costs = [plan.cost(group, tiny.SPEECH) for group in (small, large)]
    monkeypatch.setattr(devices, "memory", lambda: sum(cost.bytes for cost in costs) / 2)
    plan.check([small], costs[:1])
    with pytest.raises(UserError, match="^`batch_size`, `seeds`, `widths`: 1 networks of width 200"):
        plan.check([large], costs[1:])
    monkeypatch.setattr(recordings, "memory_limit", lambda: 1000)
    with pytest.raises(
        UserError, match="^`dataset=packed`: the frames of its first [0-9]+ utterances fill half"
    ):
        utterances.source_of(spec(), str(pack(tmp_path)))


def test_what_a_source_says_of_its_size_is_what_lies_on_the_device():
    tokens = np.arange(400).astype(np.uint16) % 9
    text = Text("tiny", tokens, tokens[:50], tuple("abcdefghi"), 10)
    images = [(tiny.SPLITS, tiny.spec(augmentation=name)) for name in AUGMENTATIONS]
    for source, one in ((tiny.SPEECH, spec()), (text, tiny.spec(model="lstm", task="characters")), *images):
        feed = source.feed(Group((one,), (0,)), SINGLE)
        data = jax.tree.leaves((feed.training_data, feed.held_out_data))
        assert source.nbytes(one) == sum(array.nbytes for array in data)
        assert source.held_out_lanes(one) == feed.held_out_lanes


# Batches.


def test_every_utterance_is_in_an_epoch_once():
    feed = tiny.SPEECH.feed(Group((spec(batch_size=4),), (0,)), SINGLE)
    rows, seen, take = feed.training(0, feed.steps), [], jax.jit(feed.make_training_batch)
    spoken = tiny.SPEECH.train
    for at in range(feed.steps):
        made = take(feed.training_data, jax.tree.map(lambda x, at=at: x[at], rows))
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), made)
        assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), tiny.SPEECH.batch_shapes(4))
        for i in np.flatnonzero(made.weight):
            seen.append(np.asarray(made.inputs.values[i, : made.inputs.lengths[i]]).tobytes())
    own = np.split(spoken.frames, spoken.first[1:])
    assert sorted(seen) == sorted(x.tobytes() for x in own)
    assert feed.held_out_lanes == tiny.TESTED and feed.lanes == 4


@pytest.mark.skipif("AN4_DIR" not in os.environ, reason="no AN4_DIR, the folder of an4_mfcc.npz")
def test_the_cepstra_of_an4():
    """948 and 130 utterances of 26 letters and space, all of which CTC can align."""
    for front_end, features in (("stack", 13), ("conv", 40)):
        one = spec(front_end=front_end, bands=40 * (front_end == "conv"), normalization="pixel")
        source = utterances.source_of(one, os.environ["AN4_DIR"])
        assert source.classes == 28 and source.input_shape == (639, features)
        assert source.num_examples(one) == (948, 130)


@pytest.mark.skipif(
    not (Path(os.environ.get("TFDS_DATA_DIR", "")) / "spoken_digit").exists(),
    reason="no prepared copy of spoken_digit in TFDS_DATA_DIR",
)
def test_the_recordings_of_spoken_digit():
    found = recordings.load("spoken_digit")
    assert found.frames.shape[1] == 81 and found.letters == tuple(" EFGHINORSTUVWXZ")
    assert np.bincount(found.split).tolist() == [1000, 200, 200]
    assert np.isfinite(found.frames).all() and utterances.alignable(found, 2).all()
