"""The benchmark of a real model, in this process and behind a real server of another process."""

from __future__ import annotations

import pytest

from interact_jax.aloe.benchmark import FIELDS, ModelReplier, play
from interact_jax.aloe.cast import Persona, Score
from interact_jax.aloe.results import results
from interact_jax.endpoints.chat import open_chat
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import Samplers
from interact_jax.judges.local import LoadedAtUse
from interact_jax.judges.sides import open_weights
from interact_jax.judges.store import Store
from tests.servers.chat_server import OPENAI
from tests.servers.running import running

pytestmark = [pytest.mark.one_device, pytest.mark.slow]
PARAMS = SamplingParams(max_new_tokens=12, temperature=0.0)
QUESTIONS = ("Capital of Peru?", "Capital of France?", "What is 3 plus 4?")


class Asking:
    """A Cast whose users ask what their profile begins at, and whose judge counts letters."""

    def __init__(self):
        self.settings = {"world": "asking"}

    def speak(self, scenes):
        first = [int(scene.persona.profile) for scene in scenes]
        places = zip(first, scenes, strict=True)
        return [Answer(QUESTIONS[(n + scene.turn) % len(QUESTIONS)]) for n, scene in places]

    def infer(self, scenes):
        raise AssertionError("the benchmark gives no hints")

    reply = order = infer

    def score(self, scenes, replies):
        return [Score(1 + len(reply) % 5, answer=str(len(reply))) for reply in replies]


def played(folder, model, settings):
    people = [Persona(str(n), "") for n in range(3)]
    with Store.open(folder / "turns.jsonl", *FIELDS) as store:
        replier = ModelReplier("model", model, PARAMS, settings)
        return play(Asking(), replier, people, 3, store)


def test_through_an_endpoint_as_in_this_process(tmp_path, monkeypatch):
    """Two models of one shape, of which the second takes the sampler over; greedy."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    side, samplers = open_weights("pocket", "float32"), Samplers(rows=4)
    here = played(tmp_path / "here", LoadedAtUse(side, samplers.of(side.model)), {"a": 1})
    again = open_weights(str(side.model.files), "float32")
    assert samplers.of(again.model) is samplers.of(side.model)
    samplers.unload()
    model = LoadedAtUse(again, samplers.of(again.model))
    assert played(tmp_path / "again", model, {"a": 1}) == here
    (tmp_path / "server").mkdir()
    with running("model_server", tmp_path / "server") as server:
        endpoint = open_chat(f"openai:pocket@{server.url}/v1")
        there = played(tmp_path / "there", endpoint, {"a": 2})
        assert len(server.journal(OPENAI)) == 9
    texts = [
        [(turn.said, turn.reply.text) for talk in talks for turn in talk.turns]
        for talks in (here, there)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 9 and len(set(texts[0])) > 3
    found = [results({"model": talks}, 3, 200)["models"][0] for talks in (here, there)]
    assert found[0].pop("cut") >= 0 and found[1].pop("cut") == 0  # the endpoint does not say
    assert found[0] == found[1] and found[0]["missing"] == 0
