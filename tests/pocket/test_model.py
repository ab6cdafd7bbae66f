"""The files that are shipped."""

import collections

import numpy as np
import pytest

from interact_jax import pocket
from interact_jax.data.conversations import read_conversations
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.pocket import logs, measure, world
from interact_jax.pocket.speaker import Speaker
from pocket_model import gates

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def speaker():
    return Speaker.load(pocket.MODEL, rows=32)


def test_files_are_small():
    files = [*pocket.MODEL.iterdir(), pocket.LOGS]
    assert sum(file.stat().st_size for file in files) < 5_000_000


def test_model_answers_and_obeys(speaker):
    found = gates.measure_obedience(speaker, trials=20, seed=11)
    assert np.mean(list(found["obeyed"].values())) > 0.93
    assert found["correct"] > 0.88
    assert abs(found["other_styles"] - world.PRIOR) < 0.1


def test_signal_tells_relevant_from_unrelated(speaker, monkeypatch):
    monkeypatch.setattr(gates, "SIGNAL_REPLIES", 32)
    found = gates.measure_signal(speaker, seed=11)
    unrelated = np.mean([found[kind] for kind in ("praise", "chatter", "request")])
    assert found["violated"] > 4 * unrelated


def test_logs_are_of_users_with_the_stated_preference():
    conversations, report = read_conversations(str(pocket.LOGS), "auto", "stop")
    assert not report.lost
    interactions = [i for c in conversations for i in c.interactions()]
    assert len(interactions) >= 4096
    kept, asked = [], collections.Counter()
    for interaction in interactions:
        reply = world.parse(interaction.y.content)
        if reply and len(interaction.x) == 1:
            kept += [reply.styles[s] == on for s, on in measure.LOGGED_PREFERENCE.items()]
        for style, phrases in world.words.COMPLAINTS.items():
            for on in (True, False):
                asked[style, on] += any(phrase in interaction.o.content for phrase in phrases[on])
    assert 0.40 < np.mean(kept) < 0.50
    wished = {style: on for (style, on), count in asked.items() if count}
    assert wished == dict(measure.LOGGED_PREFERENCE)


def test_logs_are_what_the_model_says(speaker):
    chat = speaker.chat
    dataset = load_dataset("pocket", "auto", chat, EncodeSettings(), "tree")
    assert not dataset.counts
    for conversation in dataset.conversations[:200]:
        for interaction in conversation.interactions():
            y = interaction.y
            assert chat.decode([i for i in y.token_ids if i != chat.eos_id]) == y.content
            assert len(y.logps) == len(y.token_ids)
    # Histories are shared: turns of one conversation stand in one trunk.
    assert sum(len(trees) for trees in dataset.trees) == len(dataset.trees)
    assert sum(dataset.interactions) > 1.3 * len(dataset.trees)


def test_log_probabilities_in_the_logs_are_the_models(speaker):
    conversations, _ = read_conversations(str(pocket.LOGS), "auto", "stop")
    trees = gates.trees_of(conversations[:32], speaker.chat)
    said = {i.id: i.y.logps for c in conversations[:32] for i in c.interactions()}
    for scored in gates.score(speaker, trees):
        np.testing.assert_allclose(scored.logp_student, said[scored.id], atol=2e-3)


def test_new_logs_read_back(speaker, tmp_path):
    user = world.User({"capitals": True, "exclamation": False})
    path = tmp_path / "logs.jsonl.gz"
    talks = logs.converse(speaker, user, 24, seed=5)
    logs.write_logs(talks, path)
    read, report = read_conversations(str(path), "native", "stop")
    assert not report.lost
    assert [c.messages for c in read] == [c.messages for c in talks]
    assert path.read_bytes()[4:8] == bytes(4)  # no time of writing: same logs, same bytes
