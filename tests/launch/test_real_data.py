"""Real dialogues with a real tokenizer: message trees of OpenAssistant, the template of Phi-3."""

from __future__ import annotations

import json

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.recipes import PLAIN
from interact_jax.data.tree import shared_prefix
from launch import train
from tests.runs import (
    FLOAT32,
    ONE_ROW_SHARD,
    read_lines,
    train_and_kill,
    train_arguments,
)

SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32064,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "initializer_range": 0.2,  # a signal that is large beside the rounding of float32
}


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """Settings: a random model that is only a config.json, the tokenizer, the conversations."""
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text(json.dumps(SHAPE))
    return {
        "model.path": model,
        "model.init": "random",
        "model.tokenizer": shared / "real/tokenizer/phi-3-mini",
        "data.path": shared / "real/conversations/oasst_en_100_tree.jsonl",
        "data.max_length": 256,
        "data.max_reply": 48,
        **FLOAT32,
        **ONE_ROW_SHARD,
        "batch.row_tokens": 256,
        "batch.rows": 1,
        "report.interactions": 0,
    }


def dataset(real, reply_tokens):
    chat = ChatFormat.load(real["model.tokenizer"], reply_tokens=reply_tokens)
    settings = EncodeSettings(special_tokens="keep")
    return load_dataset(str(real["data.path"]), "auto", chat, settings, "tree")


def test_all_interactions_of_the_file_come_through(real):
    assert sum(dataset(real, "in_place").interactions) == 380


def test_replies_in_place_share_history(real):
    """Every reply stands on the trunk, which grows turn by turn."""
    trees = [tree for some in dataset(real, "in_place").trees for tree in some]
    assert not any(tree.live for tree in trees)
    several = [tree for tree in trees if len(tree.replies) > 1]
    assert len(several) == 20
    for tree in several:
        starts = [reply.places[PLAIN].start for reply in tree.replies]
        assert starts == sorted(starts)
        whole = sum(len(tree.path(reply, PLAIN)) for reply in tree.replies)
        assert len(tree.trunk) < whole


def test_replies_alone_fork_where_they_begin(real):
    """Tokenised alone a reply has the space that Phi-3 puts before a text; history has not."""
    trees = [tree for some in dataset(real, "alone").trees for tree in some]
    forks = 0
    for tree in trees:
        for reply, (member,) in zip(tree.replies, tree.units(), strict=True):
            x, path = member.contexts[PLAIN], member.path(PLAIN)
            place = reply.places[PLAIN]
            if place.limb is None:
                continue
            limb = tree.live[place.limb]
            assert limb.fork == len(x)
            assert limb.ids.tolist() == member.target.y[:-1].tolist()
            assert shared_prefix(tree.trunk, path) == len(x)
            forks += 1
    assert forks == 20


FEW = {"batch.interactions": 0, "batch.conversations": 5, "epochs": 0, "checkpoint.every": 2}


@pytest.mark.slow  # tests/models/test_sight.py has the same for small trees
@pytest.mark.parametrize("reply_tokens", ["in_place", "alone"])
def test_tree_trains_as_two_forwards_do(real, reply_tokens, tmp_path):
    lines = {}
    for sharing in ("tree", "none"):
        more = {"data.reply_tokens": reply_tokens, "sharing": sharing, "steps": 2}
        more |= {"optim.name": "sgd", "optim.lr": 1.0}
        train.main(train_arguments(tmp_path / sharing, {**real, **FEW, **more}))
        lines[sharing] = read_lines(tmp_path / sharing / "metrics.jsonl")
    for tree, none in zip(lines["tree"], lines["none"], strict=True):
        assert tree["interactions"] == none["interactions"] >= 5
        for name in ("loss", "grad_norm", "signal_abs_mean"):
            assert tree[name] == pytest.approx(none[name], rel=1e-5), name


@pytest.mark.slow  # tests/test_resume.py has the same for a small log
def test_killed_and_resumed_equals_uninterrupted(real, tmp_path):
    settings = {**real, **FEW, "steps": 4, "optim.lr": 0.01}
    train.main(train_arguments(tmp_path / "whole", settings))
    arguments = train_arguments(tmp_path / "killed", settings)
    train_and_kill(arguments, step=4)
    train.main(arguments)
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    weights = "export/model.safetensors"
    assert (killed / weights).read_bytes() == (whole / weights).read_bytes()
    losses = [
        [line["loss"] for line in read_lines(run / "metrics.jsonl")] for run in (whole, killed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4
