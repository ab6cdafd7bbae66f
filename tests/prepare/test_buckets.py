"""Records on disk are found as they would be in memory, and surveys decide as they would there."""

import random

import numpy as np
import pytest

from interact_jax.prepare import buckets
from interact_jax.prepare.buckets import Buckets, Seen, in_order
from interact_jax.prepare.deciding import Decisions, Remaining
from interact_jax.prepare.filters import grouping
from interact_jax.prepare.filters.duplicates import Duplicates
from interact_jax.prepare.filters.near_duplicates import NearDuplicates
from interact_jax.prepare.filters.paper import Sample
from interact_jax.prepare.filters.users import Users
from tests.prepare import in_memory
from tests.prepare.talks import decided

pytestmark = pytest.mark.one_device


@pytest.fixture
def small(monkeypatch):
    """Blocks, portions and buckets of few records, so that there are many of them."""
    for module, sizes in (
        (buckets, {"BLOCK": 300, "PORTION": 170, "PER_BUCKET": 500, "MOST_BUCKETS": 6}),
        (grouping, {"BANDS": 3, "PAIRS": 60}),
    ):
        for name, size in sizes.items():
            monkeypatch.setattr(module, name, size)


def test_records_come_back_by_bucket_and_in_order(small, tmp_path):
    rng = np.random.default_rng(0)
    dtype = [("place", "<u8"), ("value", "<u2"), ("note", "u1", (5,))]
    found, given = Buckets(tmp_path / "found", dtype, 9), []
    for count in (0, 400, 1, 800):
        records = np.zeros(count, dtype)
        records["place"] = rng.integers(0, 2000, count)
        records["note"] = rng.integers(0, 256, (count, 5))
        found.add(records, records["place"] // buckets.BLOCK)
        given += records.tolist()
    assert len(found) == len(given) and found.filled() == [*range(7)]
    for number in found.filled():
        portions = list(found.read(number, 100))
        assert len(portions) == 2 and len(portions[0]) == 100
        expected = [each for each in given if each[0] // buckets.BLOCK == number]
        rows = [row for portion in portions for row in portion.tolist()]
        assert [str(row) for row in rows] == [str(each) for each in expected]
    places = [place for block in in_order(found) for place in block["place"].tolist()]
    assert places == sorted(each[0] for each in given)
    found.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["<u8", "S16"])
def test_equal_keys_are_those_of_a_dictionary(dtype):
    """In portions of any size, with keys that end in zeros."""
    random_, known = random.Random(0), {}
    keys = [random_.choice([1, 2, 256, 65_536, *range(300, 340)]) for _ in range(600)]
    raw = np.array([(key, 0) for key in keys], "<u8")
    keys_N = raw[:, 0].copy() if dtype == "<u8" else raw.view(dtype)[:, 0]
    seen, start = Seen(dtype), 0
    assert seen.times(keys_N[:3]).tolist() == [0, 0, 0]
    for size in (1, 0, 250, 9, 340):
        places = np.arange(start, start + size) * 10
        first, previous, before = seen.add(keys_N[start : start + size], places)
        for at, key in enumerate(keys[start : start + size]):
            own = known.setdefault(key, [])
            assert before[at] == len(own)
            assert first[at] == (own or [places[at]])[0]
            assert previous[at] == (own or [places[at]])[-1]
            own.append(places[at])
        start += size
    assert start == len(keys)
    assert seen.times(keys_N).tolist() == [keys.count(key) for key in keys]


def alike_notes(count, permutations, seed):
    """Notes among which are copies, half copies, chains of them, paths of trees, and empty ones."""
    rng = np.random.default_rng(seed)
    notes = rng.integers(0, 1 << 16, (count, permutations + 4), np.uint16)
    notes[:, permutations:] = 0
    for place in range(1, count):
        if (kind := rng.random()) < 0.45:
            earlier = rng.integers(max(0, place - 900), place)
            changed = rng.random(permutations) < rng.choice([0, 0.05, 0.2, 0.35, 0.5, 0.7])
            own = np.where(changed, notes[place, :permutations], notes[earlier, :permutations])
            notes[place, :permutations] = own
            if kind < 0.1:
                notes[[earlier, place], -1] = rng.integers(1, 4)
        elif kind < 0.48:
            notes[place] = 0xFFFF
            notes[place, permutations:] = 0
        elif kind < 0.5:  # all that share a band
            notes[place, : permutations // 3] = 7
    return notes.astype("<u2").view(np.uint8)


@pytest.mark.parametrize(
    "threshold, permutations", [(0.3, 64), (0.5, 128), (0.6, 128), (0.8, 128), (0.6, 256), (1, 64)]
)
def test_near_duplicates_are_those_found_in_memory(threshold, permutations, small):
    survey = NearDuplicates(threshold, permutations=permutations)
    notes = alike_notes(3000, permutations, seed=permutations)
    expected = in_memory.decide(survey, notes)
    found = decided(survey, notes, cuts=(0, 1000, 1000, 1001, 2500))
    assert {place: what.detail for place, what in found.items()} == expected
    assert len(expected) > 150
    numbers = {detail.partition(",")[0] for detail in expected.values()}
    assert len(numbers) < len(expected), "several like one"


def test_near_duplicates_in_large_blocks():
    survey, notes = NearDuplicates(), alike_notes(2000, 128, seed=5)
    found = decided(survey, notes)
    assert {n: what.detail for n, what in found.items()} == in_memory.decide(survey, notes)


def test_one_conversation_again_and_again(small):
    """A bucket holds all of them, and is read in portions."""
    survey = NearDuplicates()
    notes = np.tile(alike_notes(1, 128, seed=0), (2000, 1))
    assert {n: what.detail for n, what in decided(survey, notes).items()} == {
        n: "number 1, similarity about 1.00" for n in range(1, 2000)
    }


@pytest.mark.parametrize(
    "survey",
    [
        Duplicates(),
        Users(3),
        Users(4, over="none"),
        Sample(700, None, None),
        Sample(5000, 900, 40_000, seed=3),
        Sample(1000, 300, 10_000),
    ],
)
def test_surveys_decide_as_in_memory(survey, small):
    rng = np.random.default_rng(1)
    notes = np.zeros((4000, survey.width), np.uint8)
    notes[:, 0], notes[:, -1] = rng.integers(0, 80, 4000), 0
    notes[:, 1 % survey.width] += rng.integers(0, 8, 4000).astype(np.uint8)
    notes[rng.random(4000) < 0.1, :] = 0
    if survey == Duplicates():
        notes[:, 2] = 1  # a digest
    expected = in_memory.decide(survey, notes)
    found = decided(survey, notes, cuts=(0, 1, 1700, 1700, 3999))
    assert {place: what.detail for place, what in found.items()} == expected
    assert 300 < len(expected) < 4000


@pytest.mark.parametrize("share", [0, 0.002, 0.3, 0.97, 1])
def test_blocks_hold_what_remains(share, small):
    rng = np.random.default_rng(0)
    notes, stays = rng.integers(0, 256, (5000, 3), np.uint8), rng.random(5000) < share
    remaining = Remaining(notes, stays, None)
    blocks = list(remaining)
    assert len(remaining) == stays.sum()
    assert [len(block) for block in blocks[:-1]] == [buckets.BLOCK] * (len(blocks) - 1)
    whole = np.concatenate([notes[:0], *blocks])
    assert (whole == notes[stays]).all()
    for number in range(len(blocks)):
        assert (notes[remaining.rows_of(number)] == remaining.block(number)).all()


def test_surveys_in_turn_decide_on_what_is_left(small, tmp_path):
    """Places are among what is left, decisions of the parts."""
    rng, counts = np.random.default_rng(2), [0, 700, 1, 0, 2000, 299]
    notes = np.repeat(rng.integers(1, 200, (3000, 1), np.uint8), 16, axis=1)
    decisions = Decisions(counts)
    stays, ends = np.ones(3000, bool), np.cumsum([0, *counts])
    for number, survey in enumerate((Users(9), Duplicates())):
        decisions.apply(number, survey, notes, tmp_path / "scratch", 2)
        places = np.flatnonzero(stays)
        expected = in_memory.decide(survey, notes[places])
        stays[places[[*expected]]] = False
        assert (decisions.stays == stays).all() and not list(tmp_path.iterdir())
        for part, decision in enumerate(decisions.parts):
            own = [
                [int(places[place]) - int(ends[part]), detail]
                for place, detail in expected.items()
                if ends[part] <= places[place] < ends[part + 1]
            ]
            assert sum(decision.dropped.get(number, {}).values()) == len(own)
            samples = decision.samples.get(number, {"": []})
            assert [each for some in samples.values() for each in some] == own[:2]
