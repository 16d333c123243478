"""Texts: tokens that give the text back, streams that visit every pair once, and one line for what is wrong."""

import codecs

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn import devices
from wsn.data import cache, feeds
from wsn.data.language import corpora, text
from wsn.data.language.vocabulary import END, LARGEST, TOKENIZERS, UNKNOWN, words
from wsn.devices import Placement
from wsn.errors import UserError
from wsn.spec import Group, Spec

DEVICES = tuple(jax.local_devices())
CHARACTERS, WORDS = TOKENIZERS["characters"], TOKENIZERS["words"]


def spec(**changes) -> Spec:
    settings = dict(dataset="text", task="characters", model="rhn", width=3, epochs=2, batch_size=2)
    return Spec(**(settings | dict(learning_rate=0.5, sequence=4) | changes))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of three texts, and a cache of its own."""
    monkeypatch.setenv("WSN_CACHE_DIR", str(tmp_path / "cache"))
    cache.once.cache_clear()
    made = tmp_path / "text"
    made.mkdir()
    for name, content in {
        "train.txt": "the cat sat on the mat\nthe cat ran\n" * 3 + "zebra\n",
        "valid.txt": "the mat sat\nqua\n",
        "test.txt": "the cat\n" * 4,
    }.items():
        (made / name).write_text(content)
    return made


# Vocabulary.


@settings(deadline=None)
@given(st.text(min_size=1))
def test_characters_give_the_text_back(content):
    symbols = CHARACTERS.symbols(CHARACTERS.counts(content), (), 0)
    if UNKNOWN not in symbols:
        assert "".join(symbols[i] for i in CHARACTERS.encoder(symbols)(content)) == content


def test_rare_characters_become_one_symbol_where_there_are_many():
    few = "ab" * 200 + "".join(map(chr, range(0x400, 0x400 + 126)))
    assert UNKNOWN not in CHARACTERS.symbols(CHARACTERS.counts(few), (), 0)
    many = few + "\N{SNOWMAN}"
    symbols = CHARACTERS.symbols(CHARACTERS.counts(many), (), 0)
    assert symbols == ["a", "b", UNKNOWN]
    assert CHARACTERS.encoder(symbols)("ba\N{SNOWMAN}c").tolist() == [1, 0, 2, 2]


def test_a_character_that_only_held_out_texts_have_is_unknown():
    assert CHARACTERS.symbols(CHARACTERS.counts("abba"), {"c"}, 0) == ["a", "b", UNKNOWN]


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "<unk>", "<eos>"]), max_size=4)), st.integers(3, 9))
def test_words_are_the_most_frequent_ones(lines, size):
    content = "".join(" ".join(line) + "\n" for line in lines)
    counts = WORDS.counts(content)
    assert counts.total() == sum(map(len, lines)) + len(lines)
    symbols = WORDS.symbols(counts, (), size)
    assert symbols[:2] == [UNKNOWN, END] and len(symbols) == len(set(symbols)) <= size
    kept = [counts[word] for word in symbols[2:]]
    assert kept == sorted(kept, reverse=True)
    assert all(count <= min(kept, default=0) for word, count in counts.items() if word not in symbols) or (
        len(symbols) < size
    )
    decoded = [symbols[i] for i in WORDS.encoder(symbols)(content)]
    assert decoded == [word if word in symbols else UNKNOWN for word in words(content)]


# Texts by name.


def test_the_vocabulary_is_that_of_the_whole_training_text(folder):
    whole, part = (text.source_of(spec(train_samples=n), str(folder)) for n in (None, 10))
    assert whole.symbols == part.symbols and "z" in part.symbols
    np.testing.assert_array_equal(part.train, whole.train[:10])
    assert "".join(whole.symbols[i] for i in whole.train) == (folder / "train.txt").read_text()
    # 'q' and 'u' are not in the training text.
    assert whole.symbols[-1] == UNKNOWN and whole.classes == len(set((folder / "train.txt").read_text())) + 1


def test_validation_is_evaluated_where_it_is_asked_for(folder):
    source = text.source_of(spec(validation_samples=7), str(folder))
    assert "".join(source.symbols[i] for i in source.held_out) == "the mat"
    assert len(text.source_of(spec(), str(folder)).held_out) == 32


def test_words_of_a_folder(folder):
    source = text.source_of(spec(task="words", vocabulary=4), str(folder))
    assert source.symbols == (UNKNOWN, END, "the", "cat")
    assert source.train[:7].tolist() == [2, 3, 0, 0, 2, 0, 1]


def sizes(corpus: corpora.Corpus) -> list[int]:
    return [len(getattr(corpus, split)) for split in corpora.SPLITS]


def test_decoded_once(folder, monkeypatch):
    first = corpora.load("text", "characters", 0, str(folder))
    monkeypatch.setattr(corpora, "tokenized", lambda *_: pytest.fail("it lies in the cache"))
    again = corpora.load("text", "characters", 0, str(folder))
    assert isinstance(again.train, np.memmap) and again.train.dtype == np.uint16
    assert again.symbols == first.symbols and again.digest == first.digest
    for split in corpora.SPLITS:
        np.testing.assert_array_equal(getattr(again, split), getattr(first, split))


def test_the_language_reference_of_python(tmp_path):
    texts = corpora.PythonDocs()
    whole = texts.text()
    parts = {split: next(texts.pieces(split, None)) for split in corpora.SPLITS}
    assert sum(map(len, parts.values())) == len(whole) > 300_000 and whole.isascii()
    assert parts["validation"][:1000] == whole[9000:10_000] and parts["test"][:1000] == whole[4000:5000]
    corpus = corpora.load("python_docs", "characters", 0, cache_dir=str(tmp_path))
    assert len(corpus.sha256) == 64 and len(corpus.symbols) < 98
    assert len(corpus.train) == len(parts["train"])


def test_tiny_shakespeare():
    try:
        corpus = corpora.load("tiny_shakespeare", "characters", 0)
    except UserError as error:
        pytest.skip(f"no prepared copy in TFDS_DATA_DIR: {error}")
    assert sizes(corpus) == [1_003_854, 55_770, 55_770] and len(corpus.symbols) == 65


def test_one_billion_words(tmp_path):
    sentences = [{"text": f"the {word} sat ."} for word in ("cat", "dog", "cow", "hen")]
    features = {"text": tfds.features.Text()}
    tiny.write_copy(tmp_path, "lm1b:1.1.0", features, {"train": sentences * 600, "test": sentences})
    corpus = corpora.load("lm1b", "words", 5, str(tmp_path), str(tmp_path / "cache"))
    assert sizes(corpus) == [2400 * 5, 10, 10]
    assert corpus.symbols == (UNKNOWN, END, ".", "sat", "the")
    assert corpus.train[:5].tolist() == [4, 0, 3, 2, 1]


def test_much_of_a_text_that_is_rare_characters_is_warned_about(folder, caplog):
    (folder / "train.txt").write_text(RARE + "a" * 8000)
    assert text.source_of(spec(), str(folder)).symbols == ("a", UNKNOWN)
    assert "33 % of the training text are rare characters" in caplog.text


def test_a_text_without_blanks_is_no_text_of_words(folder):
    """However small the vocabulary, a text with blanks is one."""
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(" ", ""))
    with pytest.raises(UserError, match="^`dataset=text`: 100% of the words [^\n]* `task=characters`$"):
        text.source_of(spec(task="words"), str(folder))
    (folder / "test.txt").write_text("a b\nthe cat ran\n")
    (folder / "train.txt").write_text("the cat ran")
    with pytest.raises(UserError, match="^`dataset=text`: 57% of the words"):
        text.source_of(spec(task="words"), str(folder))
    (folder / "test.txt").write_text("a b\nthe cat ran\nthe\n")
    assert text.source_of(spec(task="words", vocabulary=3), str(folder)).classes == 3


def test_a_byte_order_mark_is_no_symbol(folder):
    plain = text.source_of(spec(), str(folder))
    for file in folder.iterdir():
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    marked = text.source_of(spec(), str(folder))
    assert marked.symbols == plain.symbols and marked.digest == plain.digest


def test_the_digest_of_a_folder_says_where_its_splits_are(folder):
    before = text.source_of(spec(), str(folder)).digest
    whole = "".join((folder / name).read_text() for name in ("train.txt", "valid.txt"))
    (folder / "train.txt").write_text(whole[:-50])
    (folder / "valid.txt").write_text(whole[-50:])
    assert text.source_of(spec(), str(folder)).digest != before


# Bad input.

RARE = "".join(map(chr, range(0x4E00, 0x4E00 + 200))) * 20


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.txt", None, "^`data_dir=.*`: no train.txt there; `dataset=text` reads"),
        ("valid.txt", "", "^`dataset=text`: its validation text is empty$"),
        ("train.txt", "aaaa", "^`dataset=text`: its training text is 'a' alone"),
        ("test.txt", b"\xff\xfe\x00", "^`data_dir`: .*test.txt cannot be read as UTF-8"),
        (
            "train.txt",
            RARE,
            "^`dataset=text`: 100% of its training text are characters that occur fewer than 100",
        ),
        ("train.txt", f"{RARE}{'a' * 3000}", "^`dataset=text`: 57% of its training text"),
    ],
)
def test_bad_texts(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        text.source_of(spec(), str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_samples": 1000}, "^`train_samples=1000`: choose at most the"),
        ({"validation_samples": 1000}, "^`validation_samples=1000`: choose at most the"),
        ({"task": "classification"}, "^`dataset=text` is text: choose `task` from characters, words$"),
        ({"task": "words", "vocabulary": LARGEST + 1}, f"^`vocabulary={LARGEST + 1}` is too large"),
        (
            {"train_samples": 8},
            "^`dataset=text`: the training text of 8 tokens is shorter than one window of 2",
        ),
        ({"sequence": 33}, "^`dataset=text`: the held-out text of 32 tokens is shorter than one window of"),
    ],
)
def test_bad_settings(folder, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        one = spec(**changes)
        text.source_of(one, str(folder)).feed(Group((one,), (0,)), Placement("single", DEVICES[:1]))
    assert "\n" not in str(caught.value)


def test_a_text_needs_a_folder():
    with pytest.raises(UserError, match="^`dataset=text`: give the folder"):
        text.source_of(spec())
    with pytest.raises(UserError, match="^`dataset=war_and_peace` is unknown"):
        text.source_of(spec(dataset="war_and_peace"))


# Streams.


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 20), st.integers(0, 299))
def test_every_pair_counts_once_in_streams_that_go_on(pairs, lanes, sequence, start):
    rows = text.windows(pairs, lanes, sequence, start % pairs)
    seen = [
        [
            (first + t) % pairs
            for first, length in zip(rows.first[:, k], rows.length[:, k], strict=True)
            for t in range(length)
        ]
        for k in range(lanes)
    ]
    assert sorted(sum(seen, [])) == list(range(pairs))
    assert all((b - a) % pairs in (0, 1) for lane in seen for a, b in zip(lane, lane[1:], strict=False))
    assert rows.fresh[0].all() and not rows.fresh[1:].any()
    # Only the end of a stream is padded.
    assert all((lane[:-1][lane[1:] > 0] == sequence).all() for lane in rows.length.T)


def source(tokens: int = 47, held_out: int = 30) -> text.Text:
    random = np.random.default_rng(0)
    train, other = (random.integers(0, 5, n).astype(np.uint16) for n in (tokens, held_out))
    return text.Text("tiny", train, other, tuple("abcde"), sequence=4)


def test_targets_follow_their_inputs():
    one = source()
    group = Group((spec(batch_size=3),), (0,))
    feed = one.feed(group, Placement("single", DEVICES[:1]))
    assert feed.steps == 4 and feed.lanes == 3  # 46 pairs: streams of 16, 16 and 14
    rows = feed.training(0, feed.steps)
    streams: list[list[int]] = [[], [], []]
    around_the_end = 0
    for at in range(feed.steps):
        batch = feed.make_training_batch(feed.training_data, jax.tree.map(lambda x, at=at: x[at], rows))
        assert batch.inputs.shape == batch.targets.shape == batch.weight.shape == (4, 3)
        for lane, stream in enumerate(streams):
            for t in range(4):
                if batch.weight[t, lane]:
                    if stream and stream[-1] != batch.inputs[t, lane]:
                        around_the_end += 1
                    stream[-1:] = [int(batch.inputs[t, lane]), int(batch.targets[t, lane])]
    assert around_the_end <= 1
    assert [len(stream) for stream in streams] == [17, 17, 15]
    start = text.first_pair(0, 46)
    circle = np.concatenate([one.train[start:46], one.train[: start + 1]])
    np.testing.assert_array_equal(streams[0][:16], circle[:16])


def test_no_setting_of_jax_moves_the_windows():
    starts = [text.first_pair(seed, 10**5) for seed in range(3)]
    for setting in (jax.enable_x64(True), jax.default_prng_impl("rbg"), jax.threefry_partitionable(False)):
        with setting:
            assert [text.first_pair(seed, 10**5) for seed in range(3)] == starts


def test_streams_are_the_same_on_any_number_of_devices_and_in_every_epoch():
    group = Group((spec(batch_size=6),), (0,))
    alone = source().feed(group, Placement("single", DEVICES[:1]))
    two_epochs = alone.training(0, 2 * alone.steps)
    for first, part in enumerate(
        (alone.training(0, alone.steps), alone.training(alone.steps, 2 * alone.steps))
    ):
        half = jax.tree.map(lambda x, i=first: x[i * alone.steps : (i + 1) * alone.steps], two_epochs)
        jax.tree.map(np.testing.assert_array_equal, part, half)
    cut = source().feed(group, Placement("batch", DEVICES[:4])).training(1, 2)
    for ours, theirs in zip(cut, alone.training(1, 2), strict=True):
        joined = np.moveaxis(np.asarray(ours), 0, -2).reshape(1, 8)
        np.testing.assert_array_equal(joined[:, :6], theirs)
        assert not joined[:, 6:].any(), "padding has length 0"


def test_each_network_its_own_streams():
    """By seed they start at places of their own, which a seed keeps in any company; all together by data seed."""
    one = Placement("single", DEVICES[:1])
    own = source().feed(Group((spec(order="seed"),), (4, 9)), one).training(0, 2)
    alone = source().feed(Group((spec(order="seed"),), (9,)), one).training(0, 2)
    np.testing.assert_array_equal(own.first[1:], alone.first)
    assert np.any(own.first[0] != own.first[1])
    shared = [source().feed(Group((spec(data_seed=s),), (4, 9)), one).training(0, 2).first for s in (0, 1)]
    assert shared[0].shape == (2, 2) and np.any(shared[0] != shared[1])


def test_a_text_is_a_source():
    one = source()
    assert isinstance(one, feeds.Source) and one.input_shape == () and one.classes == 5
    batch = one.feed(Group((spec(),), (0,)), Placement("single", DEVICES[:1]))
    made = batch.make_training_batch(batch.training_data, jax.tree.map(lambda x: x[0], batch.training(0, 1)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), one.batch_shapes(2)
    )
    assert one.num_examples(spec()) == (12, 8)
    assert devices.lanes_of_device(Placement("batch", DEVICES[:4]), batch.held_out_lanes) == 2
