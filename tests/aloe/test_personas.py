"""Pools: files as ALOE has them, how they grow, and the personas that they make."""

import json
import re

import numpy as np
import pytest

from interact_jax.aloe import personas
from interact_jax.aloe.cast import Persona
from interact_jax.aloe.encoders import HashingEncoder, SentenceEncoder, open_encoder
from interact_jax.aloe.growing import (
    ALIKE,
    CUT,
    FAILED,
    KEPT,
    PROFILES,
    UNREADABLE,
    grow,
    read_texts,
)
from interact_jax.aloe.personas import Personas, read_personas, read_pool
from interact_jax.generation.chat_model import Answer
from interact_jax.schema import InputError, RunStopped

pytestmark = pytest.mark.one_device
POOLS = ("profiles", "personalities", "benchmark_profiles", "benchmark_personalities")


def test_our_pools_are_disjoint_and_unlike_each_other():
    pools = {name: personas.shipped(name) for name in POOLS}
    assert [len(pools[name]) for name in POOLS] == [20, 12, 20, 5]
    every = [text for pool in pools.values() for text in pool]
    assert len(set(every)) == len(every)
    cases = personas.benchmark_personas()
    assert len({(case.profile, case.personality) for case in cases}) == 100


@pytest.mark.parametrize(
    "content, texts",
    [
        ('"A \\"b\\"."\n"C"', ['A "b".', "C"]),  # no final newline
        ('"A" "B"\n"C"\n', ["A", "B", "C"]),
        ('"A""B"\n', ["A", "B"]),
        ('"A", "B"\n\n  \n"C"\r\n', ["A", "B", "C"]),
        ('{"text": "A"}\n"B"\n', ["A", "B"]),
        ('\ufeff"A"\n"A"\n" B "\n', ["A", "B"]),
    ],
)
def test_aloes_own_files_are_read(tmp_path, content, texts):
    (tmp_path / "pool.jsonl").write_text(content, encoding="utf-8", newline="")
    assert read_pool(tmp_path / "pool.jsonl") == texts


@pytest.mark.parametrize(
    "content, message",
    [
        (b'"A"\n"B\n', "pool.jsonl:2:1: broken JSON"),
        (b'"A"\n"B" C\n', "pool.jsonl:2:5: broken JSON"),
        (b'"b" "b" b\n', "pool.jsonl:1:9: broken JSON"),
        (b'"A"\n\n["B"]\n', "pool.jsonl:3: ['B']: expected a JSON string"),
        (b'{"name": "A"}\n', "pool.jsonl:1: {'name': 'A'}: expected a JSON string"),
        (b'"A"\n" "\n', "pool.jsonl:2: a text of 0 characters"),
        (b'"A"\n"\xff"\n', "pool.jsonl:2: not UTF-8"),
        (b'"\\ud800"\n', "pool.jsonl:1: half of a character"),
        (b"\n\n", "pool.jsonl: empty"),
        (b"[" * 100_000, "pool.jsonl:1:1: broken JSON"),
        (b'"' + b"a" * 8_001 + b'"', "pool.jsonl:1: a text of 8,001 characters"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, content, message):
    (tmp_path / "pool.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_pool(tmp_path / "pool.jsonl")


def test_files_that_are_not_there_and_plain_text(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_pool(tmp_path / "absent.jsonl")
    (tmp_path / "pool.txt").write_text('One.\n\n "Two."\n')
    assert read_pool(tmp_path / "pool.txt") == ["One.", '"Two."']


def test_personas_are_read_with_both_parts(tmp_path):
    file = tmp_path / "personas.jsonl"
    file.write_text('{"profile": " A ", "personality": "B"}\n')
    assert read_personas(file) == [Persona("A", "B")]
    for line in ('{"profile": "A"}', '{"profile": "A", "personality": 3}', '"A"', "[]"):
        file.write_text(f'{{"profile": "A", "personality": "B"}}\n{line}\n')
        with pytest.raises(InputError, match=r"personas.jsonl:2: .*expected \{\"profile\""):
            read_personas(file)
    file.write_text('{"profile": "A", "personality": "B"} "C"\n')
    with pytest.raises(InputError, match="more than one value"):
        read_personas(file)


def test_nobody_comes_twice_before_all_have_come():
    people = Personas.product([f"p{n}" for n in range(7)], [f"q{n}" for n in range(5)], seed=3)
    first = [people(n) for n in range(35)]
    again = [people(n) for n in range(35, 70)]
    pairs = {(each.profile, each.personality) for each in first}
    assert len(pairs) == 35 == len({(each.profile, each.personality) for each in again})
    assert first != again
    other = Personas.product([f"p{n}" for n in range(7)], [f"q{n}" for n in range(5)], seed=4)
    assert [other(n) for n in range(35)] != first and other.about != people.about
    listed = Personas.listed(first, seed=0)
    assert {id(listed(n)) for n in range(35)} == set(map(id, first))
    assert [people(n) for n in range(35)] == first  # after having been further


# ------------------------------------------------------------------------------------- encoders


def test_hashing_finds_copies_and_tells_others_apart():
    texts = ["She runs a bakery.", "she runs a BAKERY", "He repairs old clocks.", ""]
    vectors = HashingEncoder().encode(texts)
    assert vectors.dtype == np.float32 and vectors.shape[0] == 4
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.99 and similarity[0, 2] < 0.3
    np.testing.assert_allclose(np.diag(similarity)[:3], 1, rtol=1e-5)
    assert not similarity[3].any()
    np.testing.assert_array_equal(vectors, HashingEncoder().encode(texts))


def test_an_encoder_that_is_not_installed_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'interact_jax\[personas\]'"):
        open_encoder("minilm")


@pytest.mark.slow
def test_sentence_embeddings_know_what_texts_mean(tmp_path):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("all_minilm_l6_v2")
    encoder = open_encoder("minilm")
    assert encoder.name == "all-MiniLM-L6-v2"
    vectors = encoder.encode(
        ["She bakes bread for a living.", "Her job: loaves, in a bakery.", "He mends radios.", "x"]
    )
    assert vectors.shape == (4, 384) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert encoder.encode([]).shape == (0, 384)
    for kind in ("profiles", "personalities"):  # our own pools keep to the rule by which they grow
        every = encoder.encode([*personas.shipped(kind), *personas.shipped(f"benchmark_{kind}")])
        assert np.triu(every @ every.T, 1).max() <= 0.6
    with pytest.raises(InputError, match="expected hashing, minilm, or the directory"):
        SentenceEncoder(str(tmp_path))


# -------------------------------------------------------------------------------------- growing


class Inventive:
    """Answers with one text after the other."""

    name = "inventive"

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def answer(self, dialogues, params, seeds=None):
        self.asked += zip(dialogues, seeds, strict=True)
        found = [self.answers.pop(0) if self.answers else "" for _ in dialogues]
        return [each if isinstance(each, Answer) else Answer(each) for each in found]


class Planned:
    """An encoder whose texts say where they point: "... @ 30" is 30 degrees."""

    name = "planned"

    def encode(self, texts):
        angles = np.radians([float(text.split("@")[1].strip(" .")) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def listed(*angles):
    return "\n".join(f"{n}. somebody @ {angle}." for n, angle in enumerate(angles, 1))


def test_a_text_is_kept_if_it_is_like_none_in_the_pool():
    """cos 53 = 0.602 and cos 54 = 0.588: the bound is 0.6, of every text that is there by then."""
    model = Inventive(listed(53, 54, 107, 108, 10), listed(200, 162, 306))
    grown = grow(model, Planned(), PROFILES, ["a seed @ 0"], 5, seed=0)
    assert [text.split("@")[1].strip(" .") for text in grown.pool] == [
        "0",
        "54",
        "108",
        "200",
        "306",
    ]
    assert grown.counts[KEPT] == 4 and grown.counts[ALIKE] == 4


def test_calls_show_five_of_the_pool_by_seed():
    seeds = [f"seed number {n} @ {n}" for n in range(9)]
    models = [Inventive(*["nonsense"] * 4, listed(100, 200, 300)) for _ in range(2)]
    for model in models:
        grow(model, Planned(), PROFILES, seeds, 10, seed=0)
    shown = [
        [seed for seed in seeds if f"- {seed}\n" in dialogue[1].content]
        for dialogue, _ in models[0].asked
    ]
    assert all(len(each) == 5 for each in shown) and shown[0] != shown[1]
    assert models[0].asked == models[1].asked


def test_what_cannot_be_read_is_counted_and_without_progress_it_ends():
    model = Inventive(
        *["As you like: a baker."] * 2, Answer("", error="gone", refused=True), listed(1, 2)
    )
    with pytest.raises(RunStopped) as stopped:
        grow(model, Planned(), PROFILES, ["a seed @ 0"], 5, seed=0, fruitless=4)
    said = str(stopped.value)
    for part in ("1 of 5", f"2 {UNREADABLE}", f"1 {FAILED}", f"2 {ALIKE}", "gone"):
        assert part in said


def test_a_text_that_was_cut_off_is_left_out():
    cut = listed(90) + "\n2. somebody @ 180"
    grown = grow(Inventive(cut, listed(180)), Planned(), PROFILES, ["a seed @ 0"], 3, seed=0)
    assert [text.split("@")[1] for text in grown.pool] == [" 0", " 90.", " 180."]
    assert grown.counts[CUT] == 1


def test_what_may_be_answered_another_time_ends_it():
    """Else the pool would be another when the command is given again."""
    model = Inventive(listed(1, 2), Answer("", error="gone"))
    with pytest.raises(RunStopped, match=r"1 call without an answer \(gone\)"):
        grow(model, Planned(), PROFILES, ["a seed @ 0"], 5, seed=0, together=2)


@pytest.mark.parametrize(
    "answer, number",
    [
        ("1. Somebody who bakes.\n2. Somebody who sings.", 2),
        ("1) Somebody who bakes.\n\n2) **Somebody who sings.**\n", 2),
        ("Somebody who bakes.\n\nSomebody who sings.", 2),
        ("Here you are:\n1. Somebody who bakes.\n2. Somebody who sings.", 0),
        ("1. Somebody who bakes.\n3. Somebody who sings.", 0),
        ("1. Somebody who bakes,\nand sings.", 0),
        ("Somebody who bakes.", 0),
        ("1. A.\n2. B.", 0),
        ("", 0),
    ],
)
def test_lists_are_read_strictly(answer, number):
    texts = read_texts(answer)
    assert texts == ["Somebody who bakes.", "Somebody who sings."][:number]


def test_pools_that_are_written_are_read_again(tmp_path):
    pool = personas.shipped("profiles")
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(text) for text in pool))
    assert read_pool(tmp_path / "p.jsonl") == pool
