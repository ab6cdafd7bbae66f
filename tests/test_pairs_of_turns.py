"""Conversations with a pair at every turn: one tree is what its pairs are alone, and only replies
are learned."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from interact_jax import bench, config, scoring, train
from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.recipes import PLAIN
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder
from interact_jax.models.shapes import shape
from tests.logs import ROUNDS, aloe_record, write
from tests.tiny import tiny_tokenizer

pytestmark = pytest.mark.compiled_quickly

TINY = {
    "num_hidden_layers": 2,
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


@pytest.fixture(scope="module", params=["chatml", pytest.param("think", marks=pytest.mark.slow)])
def chat(request, tmp_path_factory):
    """With `chatml` a reply stands in the history as it was generated, with `think` it does not."""
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("chat"), request.param))


def talk() -> dict:
    """Ten rounds, replies of two to ten words; every third goes on with the rejected reply."""
    record = aloe_record()
    for n, one in enumerate(record["conversations"]):
        one["assistant"]["preferred"] += " Thank you, that is polite." * (n % 3)
        one["assistant"]["rejected"] += " That is wrong." * (n % 4)
    return record


def alone(record: dict) -> list[dict]:
    """A conversation of each round and what was said before it, with the pair of that round."""
    found, said = [], []
    for n, one in enumerate(record["conversations"]):
        said = [*said, {"role": "user", "content": one["user"]}]
        replies = {
            "chosen": one["assistant"]["preferred"],
            "rejected": one["assistant"]["rejected"],
        }
        pair = {"index": len(said), **replies}
        found.append({"id": f"p{n}", "messages": said, "preferences": [pair]})
        said = [*said, {"role": "assistant", "content": one["assistant"][one["chosen"]]}]
    return found


def trees_of(chat, directory, records, recipe, sharing="tree"):
    path = write(directory, f"{sharing}.jsonl", records)
    dataset = load_dataset(path, "auto", chat, EncodeSettings(), sharing, recipe=recipe)
    return dataset.trees_of(range(len(dataset.trees)))


def settings(objective, sharing="tree"):
    cfg = config.default()
    cfg.sharing, cfg.objective.name, cfg.objective.ignore_first = sharing, objective, 0
    cfg.objective.beta, cfg.objective.reference = 0.9, "step"
    cfg.data.recipe = {"dpo": "pairs", "sft": "chosen"}[objective]
    return cfg


@functools.cache
def decoder_and_models():
    """(decoder, the policy and another initial model): the two differ, or every margin were 0."""
    decoder = Decoder(shape("small", **TINY), attention="dense")
    policy, initial = (decoder.fresh_params(seed) for seed in (0, 1))
    return decoder, {"policy": policy, "initial": initial}


def gradient_of(trees, objective, sharing="tree"):
    """(loss, its gradient, pairs) of these trees in one row."""
    decoder, models = decoder_and_models()
    step = functools.partial(
        train.differentiate,
        decoder=decoder,
        forward=scoring.FORWARD[sharing],
        method=method_of(settings(objective, sharing)),
    )
    gradients, metrics, counts = jax.jit(step)(models, bench.one_row(trees))
    mean = jax.tree.map(lambda g: np.asarray(g) / metrics["loss"].count, gradients)
    return float(metrics["loss"].mean()), mean, int(counts["interactions"])


def check_equal(found, expected):
    """Loss and gradient, to 1e-5 of the largest number of each parameter."""
    (loss, gradient, count), (loss_alone, gradient_alone, count_alone) = found, expected
    assert count == count_alone == ROUNDS
    assert loss == pytest.approx(loss_alone, rel=1e-5)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(gradient_alone), strict=True):
        largest = abs(other).max()
        assert largest > 0
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * largest)


@pytest.fixture
def whole(chat, tmp_path):
    """The trees of the whole conversation, for DPO: one."""
    trees = trees_of(chat, tmp_path, [talk()], "pairs")
    assert len(trees) == 1 and len(trees[0].replies) == 2 * ROUNDS
    return trees


@pytest.mark.parametrize("objective", ["dpo", pytest.param("sft", marks=pytest.mark.slow)])
def test_a_tree_of_ten_turns_is_its_turns_alone(objective, chat, tmp_path):
    """Against conversations of one pair each, which share nothing with one another."""
    recipe = settings(objective).data.recipe
    found = gradient_of(trees_of(chat, tmp_path, [talk()], recipe), objective)
    assert found[0] != pytest.approx(np.log(2), abs=0.01)
    separate = trees_of(chat, tmp_path, alone(talk()), recipe)
    assert len(separate) == ROUNDS
    check_equal(found, gradient_of(separate, objective))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "sft"])
def test_a_tree_of_ten_turns_is_a_pass_for_every_sequence(objective, chat, tmp_path):
    recipe = settings(objective).data.recipe
    found = gradient_of(trees_of(chat, tmp_path, [talk()], recipe), objective)
    none = trees_of(chat, tmp_path, [talk()], recipe, "none")
    check_equal(found, gradient_of(none, objective, "none"))


def test_the_reply_that_went_on_is_the_trunk(chat, whole):
    """Where history shows it as it was generated. Its pair is one branch, whichever of the two it
    is, and tokens that replies begin with in common stand once."""
    (tree,) = whole
    on_trunk = {r.target.id for r in tree.replies if r.places[PLAIN].limb is None}
    went_on = {
        f"{r.target.unit}{'+' if one['chosen'] == 'preferred' else '-'}"
        for r, one in zip(tree.replies[::2], talk()["conversations"], strict=True)
    }
    if len(tree.live) == ROUNDS:  # the longer one of the last two is on the trunk
        assert len(on_trunk & went_on) >= ROUNDS - 1
    else:
        assert len(tree.live) == 2 * ROUNDS - 1 and len(on_trunk) == 1


def test_only_preferred_replies_are_learned_after_what_was_really_said(chat, tmp_path):
    """Every counted token is one of a preferred reply or its end; all count, those of a reply as
    much as those of another."""
    trees = trees_of(chat, tmp_path, [talk()], "chosen")
    batch = bench.one_row(trees)
    replies = batch.replies
    said = [
        tree.path(r, PLAIN)[: r.places[PLAIN].start + 1] for tree in trees for r in tree.replies
    ]
    targets = [r.target.y for tree in trees for r in tree.replies]
    assert len(targets) == ROUNDS
    end = chat.tokenizer.decode([int(targets[0][-1])])
    for one, context, y in zip(alone(talk()), said, targets, strict=True):
        better = one["preferences"][0]["chosen"]
        assert chat.tokenizer.decode(y.tolist()) == better + end
        shown = chat.tokenizer.decode(context.tolist())
        places = [shown.find(message["content"]) for message in one["messages"]]
        assert -1 not in places and places == sorted(places)
        assert shown.count("<|im_start|>") == len(one["messages"]) + 1
    weights = replies.weight_BxR[0]
    assert (weights > 0).sum() == sum(map(len, targets)) == (replies.example_BxR >= 0).sum()
    np.testing.assert_array_equal(replies.target_BxR[0], np.concatenate(targets))
    for number, y in enumerate(targets):
        of_reply = weights[replies.example_BxR[0] == number]
        np.testing.assert_allclose(of_reply, 1 / len(y), rtol=1e-6)
