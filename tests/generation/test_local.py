import pytest

from interact_jax.generation.engine import Request, SamplingParams
from interact_jax.generation.local import open_engine
from interact_jax.opening import open_model
from interact_jax.schema import Message


@pytest.fixture(scope="module")
def model():
    return open_model("pocket", attention="xla")


@pytest.fixture(scope="module")
def engine(model):
    return open_engine(model, model.load(), rows=8)


def request(model, text, seed=0, **params):
    prompt = model.chat.prompt([Message("user", text)])
    return Request(prompt, SamplingParams(24, **{"temperature": 0.0, **params}), seed)


def test_requests_of_different_kinds_are_answered_in_order(model, engine):
    asked = [
        request(model, "What is the capital of France?"),
        request(model, "What comes after seven?", temperature=0.2, seed=3),
        request(model, "What is the capital of Italy?"),
    ]
    done = {}
    completions = engine.sample(asked, lambda n, completion: done.update({n: completion}))
    assert [done[n] for n in range(3)] == completions
    texts = [model.chat.decode(completion.ids).lower() for completion in completions]
    assert "paris" in texts[0] and "eight" in texts[1] and "rome" in texts[2]
    assert engine.sample(asked[1:2])[0].ids == completions[1].ids  # by its seed alone
    engine.load(model.load(), version=4)
    assert engine.sample(asked[:1])[0].version == 4
    engine.load(model.load(), version=0)


def test_a_stop_text_ends_a_completion_at_the_token_that_completes_it(model, engine):
    question = "What is the capital of France?"
    (whole,) = engine.sample([request(model, question)])
    stop = model.chat.decode(whole.ids[1:2])
    (cut,) = engine.sample([request(model, question, stop=("zz", stop))])
    assert stop not in model.chat.decode(whole.ids[:1])
    assert cut.stopped and not cut.finished and whole.finished
    assert cut.ids == whole.ids[:2]
    assert cut.logps == pytest.approx(whole.logps[:2], abs=1e-5)
    (other,) = engine.sample([request(model, question, stop=("zz",))])
    assert other.ids == whole.ids and other.finished


def test_samplers_of_one_model_share_their_programs(model, engine):
    """Every measurement of a run makes a sampler of its own."""
    again = open_engine(open_model("pocket", attention="xla"), model.load(), rows=2)
    assert again._fill is engine._fill and again._continue is engine._continue
