"""How much of a step one conversation or one user may be."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import packing_for
from interact_jax.data.limits import Limits
from interact_jax.data.pipeline import LogBatches
from tests.logs import chat, write
from tests.tiny import tiny_tokenizer


def test_a_user_weighs_at_most_so_many_times_the_median_user():
    step = [("a", "ann", 1), ("b", "bob", 2), ("c", "cat", 1)]
    flood = [(f"m{n}", "mallory", 1) for n in range(20)]
    factors = Limits(user=4).step_factors([*step, *flood], {})
    assert [factors[name] for name in "abc"] == [1, 1, 1]
    assert sum(factors[name] for name, *_ in flood) == pytest.approx(4 * 1.5)  # 1, 1, 2, 20


def test_a_conversation_without_a_user_is_a_user_of_its_own():
    step = [("a", "", 4), ("b", "", 3), ("c", "", 3), ("d", "", 40)]
    factors = Limits(user=2).step_factors(step, {})
    assert [factors[name] for name in "abc"] == [1, 1, 1]
    assert factors["d"] * 40 == pytest.approx(2 * 3.5)


def test_a_conversation_weighs_at_most_so_many_times_the_median_one():
    step = [("a", "ann", 1), ("b", "bob", 1), ("c", "cat", 30)]
    factors = Limits(conversation=8).step_factors(step, {})
    assert factors == {"a": 1, "b": 1, "c": pytest.approx(8 / 30)}


def test_both_limits_together():
    step = [("a", "ann", 1), ("b", "bob", 1), ("c", "cat", 1), ("d", "mal", 30), ("e", "mal", 30)]
    factors = Limits(conversation=8, user=4).step_factors(step, {})
    assert 30 * (factors["d"] + factors["e"]) == pytest.approx(4)


def test_a_conversation_drawn_twice_counts_twice():
    step = [("a", "", 1), ("b", "", 1), ("c", "", 1), ("c", "", 1)]
    assert Limits(user=1).step_factors(step, {}) == {"a": 1, "b": 1, "c": 0.5}


def test_a_flood_over_the_whole_log_does_not_shrink_the_others_in_a_step():
    log = [(f"a{n}", f"u{n}", 20) for n in range(99)] + [(f"m{n}", "mal", 1) for n in range(2000)]
    limits = Limits(conversation=8, user=4)
    names, users, weights = map(np.array, zip(*log, strict=True))
    log_factors = dict(zip(names, limits.log_factors(users, weights), strict=True))
    assert sum(log_factors[name] * n for name, user, n in log if user == "mal") == pytest.approx(80)
    step = [*log[:10], *log[200:230]]
    factors = limits.step_factors(step, log_factors)
    assert [factors[name] for name, *_ in step[:10]] == [1] * 10
    assert [factors[name] for name, *_ in step[10:]] == pytest.approx([80 / 2000] * 30)


@pytest.mark.parametrize("limit", [0.5, 1, 4, math.inf])
def test_factors_over_a_log_are_those_of_a_step_with_all_of_it(limit):
    rng = np.random.default_rng(3)
    users = np.array(["", "a", "b", "c"])[rng.integers(0, 4, 40)]
    weights = rng.integers(0, 9, 40) / 2
    members = [(f"c{n}", user, w) for n, (user, w) in enumerate(zip(users, weights, strict=True))]
    expected = Limits(user=limit).step_factors(members, {})
    assert any(factor < 1 for factor in expected.values()) == (limit < math.inf)
    factors = Limits(conversation=1, user=limit).log_factors(users, weights)
    assert factors.tolist() == [*expected.values()]
    numbers = np.unique(users, return_inverse=True)[1].astype(np.uint64)  # "" is 0
    assert Limits(user=limit).log_factors(numbers, weights).tolist() == factors.tolist()


def test_a_step_is_limited_by_the_weights_of_its_interactions(tmp_path):
    """Few interactions of a large weight are as much as many."""
    rows = [chat(f"c{n}", "Hi", "Hello there", "No") | {"user": f"u{n}"} for n in range(5)]
    rows[4]["messages"][1]["weight"] = 50
    format = ChatFormat.load(tiny_tokenizer(tmp_path / "chatml"))
    dataset = load_dataset(
        write(tmp_path, "a.jsonl", rows), "auto", format, EncodeSettings(), "tree"
    )
    batch = SimpleNamespace(conversations=5, interactions=0)
    draws = Draws(dataset.interactions, batch, 0, 1)
    packing = packing_for(dataset, draws, 64, 1, 0)
    step = LogBatches(dataset, draws, packing, Limits(user=4)).next()
    shares = sorted(np.concatenate([m.replies.share_BxI.ravel() for m in step.micro]))[-5:]
    assert shares == pytest.approx([1, 1, 1, 1, 4])
    assert step.metrics["limited"] == pytest.approx(46 / 54)


def test_infinity_is_off():
    factors = Limits().step_factors([("a", "", 1), ("b", "", 10**6)], {})
    assert factors == {"a": 1, "b": 1} and math.isinf(Limits().user)
