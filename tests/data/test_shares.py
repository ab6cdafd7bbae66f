"""Several processes read one data set: together they have what one process would have."""

from __future__ import annotations

import collections
import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from interact_jax.data import shapes
from interact_jax.data.chat import ChatFormat
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import packing_for
from interact_jax.data.indexing import make_all
from interact_jax.data.limits import Limits
from interact_jax.data.mixed import MixedDataset
from interact_jax.data.mixture import parse
from interact_jax.data.pipeline import LogBatches
from interact_jax.data.prepared import PreparedData
from interact_jax.data.shares import Share
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.prepare.filters import parse_filter
from interact_jax.prepare.job import Settings
from interact_jax.prepare.pipeline import prepare
from interact_jax.schema import InputError, RunStopped
from tests.logs import chat as talk
from tests.logs import write
from tests.tiny import tiny_tokenizer

HEIGHT, EPOCHS = 8, 2.0
ENCODE = EncodeSettings(max_length=256, max_reply=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three prepared data sets, of which the first had a filter, and a tokenizer."""
    folder = tmp_path_factory.mktemp("shares")
    tiny_tokenizer(folder / "tokenizer")
    rng = np.random.default_rng(0)
    for name, count, filters in (("a", 160, ("turns:least=3",)), ("b", 15, ()), ("c", 9, ())):
        rows = []
        for n in range(count):
            words = [f"{name} {n} " + "word " * int(k) for k in rng.integers(1, 12, 7)]
            texts = words[: rng.choice([2, 3, 5, 7])]
            rows.append(talk(f"c{n}", *texts) | {"user": str(rng.integers(0, 9))})
        rows[3]["messages"][0]["content"] = "<|im_end|>"  # cannot be used
        file = write(folder, f"{name}.jsonl", rows)
        settings = Settings(str(file), splits=(("train", 1.0),), filters=filters)
        prepare(settings, [parse_filter(text) for text in filters], folder / name)
    return folder


def opened(folder: Path, data: str, cache: str, workers: int = 0, encode: EncodeSettings = ENCODE):
    tokeniser = Tokeniser(ChatFormat.load(folder / "tokenizer"), encode, "tree")

    def one(path: str) -> StoredDataset:
        return StoredDataset(PreparedData(folder / path), tokeniser, folder / cache, workers)

    if "=" not in data:
        return one(data)
    weighted = parse(data)
    return MixedDataset([one(each.path) for each in weighted], weighted)


def parts_of(dataset) -> list[StoredDataset]:
    return dataset.parts if isinstance(dataset, MixedDataset) else [dataset]


def batches(dataset, share: Share | None = None, interactions: int = 16) -> LogBatches:
    is_mixed = isinstance(dataset, MixedDataset)
    sizes = SimpleNamespace(conversations=0, interactions=interactions)
    course = dataset.course(5) if is_mixed else None
    draws = Draws(dataset.interactions, sizes, 5, 0 if is_mixed else EPOCHS, course)
    return LogBatches(
        dataset, draws, packing_for(dataset, draws, 256, HEIGHT, 1), Limits(4, 3), share
    )


def ids(batch) -> list[str]:
    return sorted({r.target.id for tree in batch.trees for r in tree.replies})


def steps(source: LogBatches, first: int, last: int):
    """Batches by number, from the position on."""
    return [source.next() for _ in range(first, last)]


def joined(shares):
    """Micro-batches of the shares of a step, one behind the other."""
    return [
        jax.tree.map(lambda *rows: np.concatenate(rows), *micro)
        for micro in zip(*(batch.micro for batch in shares), strict=True)
    ]


def check_step(shares, whole) -> None:
    """Rows, structure and numbers are those of one process."""
    for ours, theirs in zip(joined(shares), whole.micro, strict=True):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for batch in shares:
        for name in ("interactions", "reply_tokens", "tokens", "slots", "metrics"):
            assert getattr(batch, name) == getattr(whole, name), name
    assert sorted({id for batch in shares for id in ids(batch)}) == ids(whole)


LAST = 12


@pytest.fixture(scope="module", params=["a", pytest.param("a=1,b=2", marks=pytest.mark.slow)])
def whole(request, folder):
    """The data, and the batches of a single process, with the positions before each."""
    dataset = opened(folder, request.param, "cache-whole")
    source = batches(dataset)
    positions, seen = [], []
    for _ in range(LAST):
        positions.append(json.loads(json.dumps(source.position())))
        seen.append(source.next())
    yield SimpleNamespace(data=request.param, batches=seen, positions=positions)
    for part in parts_of(dataset):
        part.close()


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_rows_of_all_processes_are_those_of_one(whole, folder, processes):
    sources = []
    for process in range(processes):
        dataset = opened(folder, whole.data, "cache-whole")
        for part in parts_of(dataset):
            make_all(part)
        sources.append(batches(dataset, Share(process, processes)))
    for number in range(LAST):
        check_step([source.next() for source in sources], whole.batches[number])
    places = {source.place for source in sources}
    assert len(places) == 1


def test_each_process_reads_only_what_it_packs(whole, folder, monkeypatch):
    dataset = opened(folder, whole.data, "cache-whole")
    for part in parts_of(dataset):
        make_all(part)
    source = batches(dataset, Share(1, 8))
    assert source.views.all == ("hindsight", "plain")
    read = []
    original = StoredDataset.forests_of
    monkeypatch.setattr(
        StoredDataset,
        "forests_of",
        lambda self, indices, counted: read.extend(indices) or original(self, indices, counted),
    )
    drawn = source.draws.step(source.place)
    source.next()
    assert len(read) < len(drawn)


def test_the_number_of_processes_may_change_within_an_epoch(whole, folder):
    position = whole.positions[0]
    for processes, first, last in ((2, 0, 3), (1, 3, 4), (4, 4, 8), (8, 8, LAST)):
        sources = []
        for process in range(processes):
            dataset = opened(folder, whole.data, "cache-whole")
            source = batches(dataset, Share(process, processes) if processes > 1 else None)
            source.seek(position)
            sources.append(source)
        for number in range(first, last):
            shares = [source.next() for source in sources]
            check_step(shares, whole.batches[number])
        positions = [json.loads(json.dumps(source.position())) for source in sources]
        assert all(each == positions[0] for each in positions)
        position = positions[0]


def test_processes_without_a_tree_compute_the_same(folder):
    """Of two conversations, in eight rows."""
    alone = batches(opened(folder, "b", "cache-few"), None, 3)
    few = [alone.next() for _ in range(4)]
    sources = [
        batches(opened(folder, "b", "cache-few"), Share(process, 8), 3) for process in range(8)
    ]
    for whole in few:
        shares = [source.next() for source in sources]
        assert not all(len(batch.trees) for batch in shares)
        check_step(shares, whole)


@pytest.mark.parametrize("processes", [2, 8])
def test_the_last_rows_of_a_step_may_be_empty(folder, processes, monkeypatch):
    """As where no set of planned shapes holds its trees."""
    monkeypatch.setattr(shapes, "_choices", lambda *given: [])
    alone = batches(opened(folder, "a", "cache-fill"))
    sources = [
        batches(opened(folder, "a", "cache-fill"), Share(process, processes))
        for process in range(processes)
    ]
    cut_short = False
    for _ in range(4):
        whole, parts = alone.next(), [source.next() for source in sources]
        cut_short |= any((batch.trunk.segment_BxL == 0).all(axis=1).any() for batch in whole.micro)
        check_step(parts, whole)
    assert cut_short


@pytest.mark.parametrize("data", ["b", "b=1,c=1"])
@pytest.mark.parametrize(
    "shares",
    [
        [Share(n, 4) for n in range(4)],
        [Share(n, 2, held=(0, 1), shards=2, told=(n,)) for n in range(2)],  # the same rows
    ],
    ids=["4", "2 with the same rows"],
)
def test_what_is_lost_counts_once(folder, data, shares):
    """Of conversations whose trees lie in rows of several, and in other rows in each epoch."""
    cut = EncodeSettings(max_length=256, max_reply=4)

    def read_all(share: Share | None):
        dataset = opened(folder, data, "cache-lost", encode=cut)
        for part in parts_of(dataset):
            make_all(part)
            part.count_anew()
        source = batches(dataset, share, 9)
        if "=" in data:  # without end: until each of them has been drawn
            steps(source, 0, 20)
        else:
            with pytest.raises(IndexError):
                steps(source, 0, 1000)
        for part in parts_of(dataset):
            part.close()
        return dataset.summary()

    expected = read_all(None)
    assert len(expected) > 1 and expected["replies cut at data.max_reply, their EOS lost"] > 9
    assert sum(map(read_all, shares), collections.Counter()) == expected


def test_rows_have_to_be_shared_out_evenly():
    assert [Share(n, 4).rows(8) for n in range(4)] == [[n, n + 1] for n in (0, 2, 4, 6)]
    assert Share(1, 2, held=(1, 3), shards=4).rows(8) == [2, 3, 6, 7]
    with pytest.raises(InputError, match=r"8 rows cannot .* over 3 shards.*batch\.rows"):
        Share(0, 3).rows(8)


# -------------------------------------------------------------------------------- real processes


def read_share(folder: Path, data: str, cache: str, share: Share, workers: int, position):
    """In a process of its own: make a share of the trees, and read three steps from a position on.
    Returns their ids and digests of their rows, and the position behind them."""
    dataset = opened(folder, data, cache, workers)
    for part in parts_of(dataset):
        make_all(part, share, patience=120)
    source = batches(dataset, share)
    if position:
        source.seek(position)
    found = []
    for _ in range(3):
        batch = source.next()
        found.append((ids(batch), [rows(micro) for micro in batch.micro]))
    for part in parts_of(dataset):
        part.close()
    return found, source.position()


def rows(micro) -> list[str]:
    """A digest of each row of a micro-batch."""
    arrays = jax.tree.leaves(micro)
    return [
        hashlib.sha256(b"".join(np.ascontiguousarray(array[b]) for array in arrays)).hexdigest()
        for b in range(len(arrays[0]))
    ]


def run_processes(folder, data, cache, processes, position=None, workers=0):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        futures = [
            pool.submit(read_share, folder, data, cache, Share(n, processes), workers, position)
            for n in range(processes)
        ]
        return [future.result(timeout=300) for future in futures]


def check_found(results, expected) -> None:
    for number, whole in enumerate(expected):
        ours = [found[number] for found, _ in results]
        assert sorted({id for names, _ in ours for id in names}) == ids(whole)
        for m, micro in enumerate(whole.micro):
            assert [digest for _, of_micro in ours for digest in of_micro[m]] == rows(micro)


@pytest.mark.slow
def test_real_processes_make_and_read_their_shares(whole, folder):
    cache = f"cache-2-{len(whole.data)}"
    first = run_processes(folder, whole.data, cache, 2, workers=0)
    check_found(first, whole.batches[:3])
    assert first[0][1] == first[1][1]
    alone = opened(folder, whole.data, cache)
    assert all(part.store.held() == len(part) for part in parts_of(alone))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_real_processes_of_another_number_go_on(whole, folder, workers):
    cache = f"cache-8-{len(whole.data)}-{workers}"
    first = run_processes(folder, whole.data, cache, 8, workers=workers)
    check_found(first, whole.batches[:3])
    second = run_processes(folder, whole.data, cache, 2, json.loads(json.dumps(first[5][1])))
    check_found(second, whole.batches[3:6])


def test_whoever_does_not_come_is_named(folder):
    dataset = opened(folder, "b", "cache-lonely")
    with pytest.raises(RunStopped, match=r"7 conversations of 15 .*process 1 of 2.*for 0 s"):
        make_all(dataset, Share(0, 2), patience=0.3)
    assert dataset.store.held() == 8
    dataset.close()
