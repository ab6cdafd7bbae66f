"""Data that are not in memory: the same trees, in the same order, made once and kept."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import random
from types import SimpleNamespace

import numpy as np
import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import ReadReport, read_conversations
from interact_jax.data.dataset import grow, units_of, weight_of
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.fingerprint import DIFFERENCES, digest_trees
from interact_jax.data.first_steps import packing_for
from interact_jax.data.forest import sizes_of
from interact_jax.data.limits import Limits
from interact_jax.data.pipeline import LogBatches
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokenised, Tokeniser
from interact_jax.data.tree_index import ENTRY
from interact_jax.data.tree_records import from_bytes, to_bytes
from interact_jax.data.tree_store import INDEX, TreeStore
from interact_jax.schema import InputError, RunStopped
from tests.logs import chat as talk
from tests.logs import write
from tests.tiny import tiny_tokenizer

COUNT = 150
WORDS = ["why", "how", "the", "a", "sun", "moon", "is", "not", "7", ",", ".", "éà", "好", "really"]
SETTINGS = EncodeSettings(max_length=512, max_reply=64)


@dataclasses.dataclass
class Listed:
    """Conversations of a list, as if they were in shards."""

    conversations: list

    def __post_init__(self):
        texts = [repr(c.messages) for c in self.conversations]
        self.digest = hashlib.sha256("".join(texts).encode()).hexdigest()
        turns = [sum(1 for _ in c.replies()) for c in self.conversations]
        self.interactions = np.array(turns, np.int32)
        self.users = np.array([int(c.user or 0) for c in self.conversations], np.uint64)

    def __len__(self):
        return len(self.conversations)

    def batch(self, indices):
        return [self.conversations[i] for i in indices]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    rng = random.Random(0)

    def says() -> str:
        return " ".join(rng.choices(WORDS, k=9))

    rows = []
    for n in range(COUNT):
        turns = 2 * rng.randint(1, 4) + 1
        row = talk(f"c{n}", *(says() for _ in range(turns)))
        rows.append(row | {"user": str(rng.randint(0, 9) or "")})
    rows[7]["messages"][1]["content"] = "too long " * 90  # is cut
    path = write(tmp_path_factory.mktemp("logs"), "logs.jsonl", rows)
    return read_conversations(path)[0]


def eager(conversations, chat, settings=SETTINGS):
    return grow(conversations, ReadReport(), chat, settings, "tree")


def stored(conversations, chat, folder, workers=0, settings=SETTINGS):
    return StoredDataset(Listed(conversations), Tokeniser(chat, settings, "tree"), folder, workers)


def same(ours, expected) -> bool:
    return [digest_trees(trees) for trees in ours] == [digest_trees(trees) for trees in expected]


def batches(dataset, epochs=2.0, interactions=11):
    draws = Draws(
        dataset.interactions, SimpleNamespace(conversations=0, interactions=interactions), 3, epochs
    )
    return LogBatches(dataset, draws, packing_for(dataset, draws, 64, 2, 1), Limits(8, 4))


def ids(batch) -> list[str]:
    return [reply.target.id for tree in batch.trees for reply in tree.replies]


def test_bytes_give_back_what_they_were_made_of(conversations, chat):
    dataset = eager(conversations, chat)
    for trees in dataset.trees:
        tree = trees[0]
        reply = tree.replies[0]
        known = np.linspace(-2, -0.5, len(reply.target.y), dtype=np.float32)
        target = dataclasses.replace(reply.target, known={"sampler": known}, weight=0.5, side=1)
        changed = dataclasses.replace(tree, replies=(dataclasses.replace(reply, target=target),))
        tokenised = Tokenised([changed, *trees], 3, collections.Counter({"cut": 2}))
        back = from_bytes(to_bytes(tokenised))
        assert (back.units, back.counts) == (3, {"cut": 2})
        assert digest_trees(back.trees) == digest_trees(tokenised.trees)
        for ours, theirs in zip(back.trees, tokenised.trees, strict=True):
            assert [r.places for r in ours.replies] == [r.places for r in theirs.replies]
            assert ours.frozen_views == theirs.frozen_views
        ours = back.trees[0].replies[0].target
        for field in dataclasses.fields(ours):
            if field.name not in ("y", "known"):
                assert getattr(ours, field.name) == getattr(target, field.name)
        np.testing.assert_array_equal(ours.known["sampler"], known)
        assert ours.known["sampler"].dtype == np.float32


def test_batches_are_those_of_a_dataset_in_memory(conversations, chat, tmp_path):
    expected = batches(eager(conversations, chat))
    for _ in range(2):  # the second time all trees are in the store
        dataset = stored(conversations, chat, tmp_path)
        source = batches(dataset)
        expected.seek({**expected.position(), "drawn": 0})
        for _ in range(expected.steps_left()):
            ours, theirs = source.next(), expected.next()
            assert ids(ours) == ids(theirs)
            assert digest_trees(ours.trees) == digest_trees(theirs.trees)
            assert (ours.interactions, ours.metrics) == (theirs.interactions, theirs.metrics)
            weights = [batch.micro[0].replies.weight_BxR.sum() for batch in (ours, theirs)]
            assert weights[0] == pytest.approx(weights[1])
        assert source.totals() == expected.totals()
        assert dataset.counts == expected.dataset.counts
        assert source.summary() == expected.summary()
        assert "1 reply cut at data.max_reply, their EOS lost" in source.summary()
        with pytest.raises(IndexError):
            source.next()
        assert dataset.store.held() == COUNT
        dataset.close()


@pytest.mark.parametrize(
    "workers", [0, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 3))]
)
def test_trees_do_not_depend_on_the_number_of_workers(conversations, chat, tmp_path, workers):
    expected = eager(conversations, chat).trees
    dataset = stored(conversations, chat, tmp_path, workers)
    order = [*np.random.default_rng(1).permutation(COUNT).tolist(), 0, 1, 0]
    read = dataset.follow(iter(order))
    assert same(read(order[:20]) + read(order[20:]), [expected[i] for i in order])
    assert dataset.store.held() == COUNT
    dataset.close()


def test_stored_trees_are_not_made_again(conversations, chat, tmp_path, monkeypatch):
    expected = eager(conversations, chat).trees
    first = stored(conversations, chat, tmp_path)
    read = first.follow(iter(range(100)))
    read(range(100))
    first.close()
    made = []
    original = Tokeniser.all
    monkeypatch.setattr(
        Tokeniser,
        "all",
        lambda self, all_of: original(self, map(lambda c: made.append(c.id) or c, all_of)),
    )
    second = stored(conversations, chat, tmp_path)
    assert same(second.follow(iter(range(COUNT)))(range(COUNT)), expected)
    assert made == [f"c{n}" for n in range(100, COUNT)]
    second.close()


@pytest.mark.parametrize("what", ["conversation", "settings", "template", "sharing"])
def test_other_data_or_settings_have_a_store_of_their_own(conversations, chat, tmp_path, what):
    first = stored(conversations, chat, tmp_path)
    first.trees_of([0, 1])
    others, settings, changed = list(conversations), SETTINGS, chat
    if what == "conversation":
        others[0] = others[1]
    elif what == "settings":
        settings = dataclasses.replace(SETTINGS, max_reply=8)
    elif what == "template":
        changed = dataclasses.replace(chat, hindsight="They said: {o}")
    sharing = "none" if what == "sharing" else "tree"
    second = StoredDataset(Listed(others), Tokeniser(changed, settings, sharing), tmp_path)
    assert second.store.held() == 0
    assert first.store.held() == 2
    assert set(first.prints) == set(DIFFERENCES)
    assert first.prints != second.prints


def test_a_resumed_source_goes_on_as_if_nothing_had_happened(conversations, chat, tmp_path):
    whole = batches(stored(conversations, chat, tmp_path / "a"))
    seen = [whole.next() for _ in range(20)]
    source = batches(stored(conversations, chat, tmp_path / "b"))
    for _ in range(7):
        source.next()
    position = source.position()
    again = batches(stored(conversations, chat, tmp_path / "c", workers=1))
    again.seek(position)
    assert again.totals() == source.totals()
    for batch in seen[7:]:
        ours = again.next()
        assert ids(ours) == ids(batch)
        for mine, theirs in zip(ours.micro, batch.micro, strict=True):
            np.testing.assert_array_equal(mine.trunk.id_BxL, theirs.trunk.id_BxL)
    other = batches(stored(conversations[1:], chat, tmp_path / "d"))
    with pytest.raises(InputError, match="150 conversations, now there are 149"):
        other.seek(position)


def test_rows_grow_for_what_the_first_steps_did_not_have(conversations, chat, tmp_path):
    long = dataclasses.replace(conversations[7], id="long")
    rows = [c for c in conversations if c.id != "c7"][:60]
    draws = Draws([1] * 61, SimpleNamespace(conversations=1, interactions=0), 3, 1.0)
    rows.insert(draws.course.take((60,), 1)[0], long)  # it is drawn last
    settings = EncodeSettings(max_length=512, max_reply=512)
    dataset = stored(rows, chat, tmp_path, settings=settings)
    draws = Draws(dataset.interactions, SimpleNamespace(conversations=1, interactions=0), 3, 1.0)
    packing = packing_for(dataset, draws, 64, 1, 0)
    small = dataclasses.replace(packing, full=min(packing.shapes, key=lambda shape: shape.T))
    source = LogBatches(dataset, draws, small)
    batch = [source.next() for _ in range(61)][-1]
    assert "long" in batch.trees[0].replies[0].target.id
    assert batch.packing.full.T > small.full.T
    assert source.position()["full"] == list(batch.packing.full.counts())


def test_an_error_comes_when_its_turn_has_come(conversations, chat, tmp_path):
    """Behind the same trees, whoever makes them."""
    spoilt = list(conversations)
    bad = dataclasses.replace(spoilt[90].messages[0], content="<|im_end|>")
    spoilt[90] = dataclasses.replace(spoilt[90], messages=(bad, *spoilt[90].messages[1:]))
    settings = dataclasses.replace(SETTINGS, special_tokens="stop")
    trees = []
    for workers in (0, 1):
        dataset = stored(spoilt, chat, tmp_path / str(workers), workers, settings)
        read = dataset.follow(iter(range(COUNT)))
        trees.append(read(range(60)))
        with pytest.raises(InputError, match=r"logs\.jsonl:91"):
            read(range(60, COUNT))
        dataset.close()
    assert same(*trees)


# ------------------------------------------------------------------------------------ the store


def tokenised(chat, conversations, n):
    tokeniser = Tokeniser(chat, SETTINGS, "tree")
    return next(tokeniser.all([conversations[n]]))


def test_a_damaged_record_is_made_again(conversations, chat, tmp_path):
    dataset = stored(conversations, chat, tmp_path)
    expected = dataset.trees_of(range(40))
    dataset.close()
    file = next(tmp_path.glob("*/trees-*.bin"))
    data = bytearray(file.read_bytes())
    rng = random.Random(5)
    for _ in range(300):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data[: len(data) * 9 // 10])
    again = stored(conversations, chat, tmp_path)
    assert digest_trees(again.trees_of(range(40))) == digest_trees(expected)
    lost = sum(again.store.get(i) is None for i in range(40))
    assert lost == 0
    again.close()


@pytest.mark.parametrize("spoil", ["random", "shuffled"])
def test_a_spoilt_index_costs_work_and_nothing_else(conversations, chat, tmp_path, spoil):
    dataset = stored(conversations, chat, tmp_path)
    expected = dataset.trees_of(range(40))
    dataset.close()
    file = next(tmp_path.glob(f"*/{INDEX}"))
    entry_N = np.fromfile(file, ENTRY)
    rng = np.random.default_rng(1)
    if spoil == "random":
        entry_N = np.frombuffer(rng.bytes(entry_N.nbytes), ENTRY)
    rng.permutation(entry_N).tofile(file)
    again = stored(conversations, chat, tmp_path)
    assert digest_trees(again.trees_of(range(40))) == digest_trees(expected)
    again.close()


@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_sizes_are_known_without_a_look_at_the_trees(
    conversations, chat, tmp_path, monkeypatch, sharing
):
    expected = grow(conversations, ReadReport(), chat, SETTINGS, sharing)
    dataset = StoredDataset(Listed(conversations), Tokeniser(chat, SETTINGS, sharing), tmp_path)
    order = np.random.default_rng(2).permutation(COUNT).tolist()
    assert dataset.sizes(order[:5]) is None
    dataset.trees_of(order[:100])
    assert dataset.sizes(order) is None
    dataset.trees_of(order)
    with monkeypatch.context() as context:
        context.setattr("interact_jax.data.tree_store.from_bytes", None)  # no record is read
        sizes = dataset.sizes(order)
        trees = dataset.trees_of(order)
        assert sizes_of(trees).tolist() == sizes.trees_Nx5.tolist()
    assert sizes.trees_Nx5.tolist() == sizes_of(expected.trees_of(order)).tolist()
    assert sizes.trees_C.tolist() == [len(expected.trees[i]) for i in order]
    assert max(sizes.trees_C) > 1
    assert sizes.units_C.tolist() == [units_of(expected.trees[i]) for i in order]
    assert sizes.weight_C.tolist() == [weight_of(expected.trees[i]) for i in order]
    assert not sizes.given
    assert digest_trees(trees) == digest_trees(expected.trees_of(order))
    dataset.close()


def test_a_damaged_entry_of_the_index_counts_as_missing(conversations, chat, tmp_path):
    """Whatever bit is wrong: sizes of another tree would make a plan of their own."""
    dataset = stored(conversations, chat, tmp_path)
    dataset.trees_of(range(COUNT))
    dataset.close()
    file = next(tmp_path.glob(f"*/{INDEX}"))
    data = bytearray(file.read_bytes())
    bits = np.random.default_rng(3).integers(0, 8 * ENTRY.itemsize, COUNT).tolist()
    for n, bit in enumerate(bits):
        data[n * ENTRY.itemsize + bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    again = stored(conversations, chat, tmp_path)
    assert not again.store.has(range(COUNT)).any()
    assert all(again.sizes([n]) is None for n in range(COUNT))
    assert again.trees_of(range(COUNT)) is not None and again.sizes(range(COUNT)) is not None
    again.close()


def test_given_log_probabilities_show_in_the_sizes(conversations, chat, tmp_path):
    made = tokenised(chat, conversations, 0)
    (reply, *others) = made.trees[0].replies
    known = {"sampler": np.zeros(len(reply.target.y), np.float32)}
    reply = dataclasses.replace(reply, target=dataclasses.replace(reply.target, known=known))
    tree = dataclasses.replace(made.trees[0], replies=(reply, *others))
    store = TreeStore.open(tmp_path, {"a": 1}, COUNT)
    store.put(0, made)
    store.put(1, dataclasses.replace(made, trees=[tree]))
    assert (store.sizes([0]).given, store.sizes([0, 1]).given) == (False, True)


def test_the_index_has_its_place_on_disk_from_the_beginning(tmp_path):
    """A process that writes into a hole of a mapped file dies where the disk is full."""
    store = TreeStore.open(tmp_path, {}, 100_000)
    assert (store.folder / INDEX).stat().st_blocks * 512 >= 100_000 * ENTRY.itemsize
    assert TreeStore.open(tmp_path, {}, 0).held() == 0


def test_a_full_disk_ends_keeping_not_reading(conversations, chat, tmp_path, monkeypatch, caplog):
    expected = eager(conversations, chat).trees
    dataset = stored(conversations, chat, tmp_path)
    written = []

    def write_until_full(file, data):
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(data)
        return original(file, data)

    original = __import__("os").write
    monkeypatch.setattr("interact_jax.data.tree_store.os.write", write_until_full)
    read = dataset.follow(iter(range(COUNT)))
    assert same(read(range(COUNT)), expected)
    assert dataset.store.held() == 3
    assert "No space left" in caplog.text
    dataset.close()


def test_a_worker_that_dies_is_an_error_of_ours(conversations, chat, tmp_path):
    dataset = stored(conversations, chat, tmp_path, workers=1)
    dataset.maker = dataclasses.replace(dataset.maker, shards=Deadly(conversations))
    read = dataset.follow(iter(range(COUNT)))
    with pytest.raises(RunStopped, match=r"data\.workers"):
        read(range(COUNT))
    dataset.close()


class Deadly(Listed):
    def batch(self, indices):
        __import__("os")._exit(9)


def test_two_processes_may_fill_one_store(conversations, chat, tmp_path):
    a = TreeStore.open(tmp_path, {"a": 1}, COUNT)
    b = TreeStore.open(tmp_path, {"a": 1}, COUNT)
    for n in range(20):
        (a, b)[n % 2].put(n, tokenised(chat, conversations, n))
    for n in range(20):
        ours = (b, a)[n % 2].get(n)
        assert digest_trees(ours.trees) == digest_trees(tokenised(chat, conversations, n).trees)
