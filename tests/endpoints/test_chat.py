"""Chat endpoints against a real server process that can be told to fail."""

import json

import pytest

from interact_jax.endpoints.chat import open_chat
from interact_jax.endpoints.retrying import Patience
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message
from tests.servers.chat_server import ANTHROPIC, KEY, MODEL, OPENAI
from tests.servers.running import running

QUICK = Patience(tries=3, first=0.01, longest=0.02)
PARAMS = SamplingParams(max_new_tokens=16, temperature=0.7)
PATHS = {"openai": OPENAI, "anthropic": ANTHROPIC}
both = pytest.mark.parametrize("provider", ["openai", "anthropic"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("chat_server", tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(server, monkeypatch):
    server.forget()
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
        monkeypatch.delenv(f"{name}_BASE_URL", raising=False)


def opened(server, provider, model=MODEL, **options):
    url = server.url + ("/v1" if provider == "openai" else "")
    return open_chat(f"{provider}:{model}@{url}", **{"patience": QUICK, **options})


def said(*texts):
    return [[Message("user", text)] for text in texts]


@both
def test_every_dialogue_gets_its_answer(server, provider):
    model = opened(server, provider, concurrency=4)
    answers = model.answer(said(*map(str, range(40))), PARAMS)
    assert [answer.text for answer in answers] == [f"You said: {n}" for n in range(40)]
    assert not any(answer.error for answer in answers)
    assert model.name == MODEL
    assert model.counts == {
        "requests": 40,
        "answers": 40,
        "tokens in": 40,
        "tokens out": 120,
    }
    assert len(server.journal()) == 40


def test_the_request_to_openai(server):
    dialogue = [
        Message("system", "Be brief."),
        *(Message("user", "a"), Message("assistant", "b"), Message("user", "c")),
    ]
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    params = SamplingParams(max_new_tokens=9, temperature=0.5, top_p=0.9, stop=("END",))
    opened(server, "openai", extra=extra).answer([dialogue], params, seeds=[77])
    (entry,) = server.journal()
    assert entry["body"] == {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END"],
        "seed": 77,
        **extra,
    }


def test_the_request_to_anthropic(server):
    dialogue = [Message("system", "Be brief."), Message("user", "a")]
    params = SamplingParams(max_new_tokens=9, temperature=0.0, top_k=5, stop=("END",))
    opened(server, "anthropic").answer([dialogue], params)
    (entry,) = server.journal()
    assert entry["body"] == {
        "model": MODEL,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 9,
        "temperature": 0.0,
        "top_k": 5,
        "stop_sequences": ["END"],
    }


@both
@pytest.mark.parametrize(
    "fault",
    [
        {"do": "status", "status": 429, "headers": {"Retry-After": "0"}},
        {"do": "status", "status": 500},
        {"do": "status", "status": 529},
        {"do": "drop"},
        {"do": "half"},
        {"do": "garbage"},
        {"do": "garbage", "text": '{"an": "answer of another form"}'},
        {"do": "garbage", "text": '"no object"'},
        {"do": "hang"},
    ],
    ids=lambda fault: "-".join(map(str, fault.values()))[:24],
)
def test_what_passes_is_tried_again_and_counted_once(server, provider, fault):
    server.plan({"at": PATHS[provider], "nth": 2, **fault})
    timeout = 3.0 if fault["do"] == "hang" else 60.0
    model = opened(server, provider, concurrency=1, timeout=timeout)
    answers = model.answer(said("a", "b", "c"), PARAMS)
    assert [answer.text for answer in answers] == ["You said: a", "You said: b", "You said: c"]
    assert server.planned() == []
    assert model.counts["failed tries"] == 1
    assert model.counts["requests"] == model.counts["answers"] == 3
    assert model.counts["tokens out"] == 9
    assert model.counts["failures"] == 0


@both
def test_a_failure_after_all_tries_is_an_answer_with_an_error(server, provider):
    more = [{"at": PATHS[provider], "do": "status", "status": 503}] * 2
    server.plan({"at": PATHS[provider], "nth": 2, "do": "status", "status": 503}, *more)
    model = opened(server, provider, concurrency=1)
    answers = model.answer(said("a", "b", "c"), PARAMS)
    assert [answer.text for answer in answers] == ["You said: a", "", "You said: c"]
    assert "503" in answers[1].error and "3 tries" in answers[1].error
    assert not answers[0].error and not answers[2].error
    assert model.counts["failures"] == 1
    assert model.counts["answers"] == 2
    assert model.counts["failed tries"] == 2  # the third was the last


@both
def test_a_request_that_is_refused_is_not_tried_again(server, provider):
    model = opened(server, provider)
    answers = model.answer(said("too long", "b"), PARAMS)
    assert "the prompt is too long" in answers[0].error
    assert answers[1].text == "You said: b"
    assert model.counts["failed tries"] == 0


def test_out_of_credit_is_no_busy_server(server):
    body = {"error": {"code": "insufficient_quota", "message": "you have used it up"}}
    server.plan({"at": OPENAI, "do": "status", "status": 429, "body": body})
    model = opened(server, "openai")
    (answer,) = model.answer(said("a"), PARAMS)
    assert "you have used it up" in answer.error
    assert model.counts["failed tries"] == 0


@both
def test_the_longer_wait_that_a_server_asks_for_ends_the_request(server, provider):
    fault = {"do": "status", "status": 429, "headers": {"retry-after": "4000"}}
    server.plan({"at": PATHS[provider], **fault})
    (answer,) = opened(server, provider).answer(said("a"), PARAMS)
    assert "it asks to wait 4,000 s" in answer.error


@both
def test_a_reply_without_text_is_an_error(server, provider):
    empty = {
        "openai": {"choices": [{"message": {"content": None}, "finish_reason": "length"}]},
        "anthropic": {
            "content": [],
            "stop_reason": "max_tokens",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
    server.plan({"at": PATHS[provider], "do": "garbage", "text": json.dumps(empty[provider])})
    (answer,) = opened(server, provider).answer(said("a"), PARAMS)
    assert "without text" in answer.error


@both
def test_a_refusal_of_the_model_is_an_error(server, provider):
    refused = {
        "openai": {
            "choices": [{"message": {"content": "", "refusal": "No."}, "finish_reason": "stop"}]
        },
        "anthropic": {
            "content": [{"type": "text", "text": "I"}],
            "stop_reason": "refusal",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        },
    }
    server.plan({"at": PATHS[provider], "do": "garbage", "text": json.dumps(refused[provider])})
    (answer,) = opened(server, provider).answer(said("a"), PARAMS)
    assert answer.text == ""
    assert "refused" in answer.error


@both
def test_a_wrong_key_ends_everything_before_the_work(server, provider, monkeypatch):
    monkeypatch.setenv(f"{provider.upper()}_API_KEY", "wrong")
    with pytest.raises(InputError, match=f"{provider.upper()}_API_KEY"):
        opened(server, provider).answer(said("a"), PARAMS)


@both
def test_a_wrong_model_ends_everything_before_the_work(server, provider):
    with pytest.raises(InputError, match="Check the model's name"):
        opened(server, provider, model="nobody").answer(said("a"), PARAMS)


@both
def test_a_model_that_goes_away_later_costs_no_answer(server, provider):
    model = opened(server, provider, concurrency=1)
    server.plan({"at": PATHS[provider], "nth": 2, "do": "status", "status": 404})
    answers = model.answer(said("a", "b", "c"), PARAMS)
    assert [bool(answer.error) for answer in answers] == [False, True, False]


@both
def test_the_address_may_come_from_the_environment(server, provider, monkeypatch):
    url = server.url + ("/v1" if provider == "openai" else "")
    monkeypatch.setenv(f"{provider.upper()}_BASE_URL", url)
    model = open_chat(f"{provider}:{MODEL}", patience=QUICK)
    assert model.answer(said("a"), PARAMS)[0].text == "You said: a"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_the_service_itself_wants_a_key(provider, monkeypatch):
    monkeypatch.delenv(f"{provider.upper()}_API_KEY")
    with pytest.raises(InputError, match=f"{provider.upper()}_API_KEY: not set"):
        open_chat(f"{provider}:{MODEL}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gpt-4", "expected PROVIDER:MODEL"),
        ("google:gemini", "one of openai, anthropic"),
        ("openai:", "needs the name of a model"),
        ("openai:x@http://", "expected the address of a server"),
        ("openai:x@http://127.0.0.1:port", "expected the address of a server"),
    ],
)
def test_names_that_are_none(spec, message):
    with pytest.raises(InputError, match=message):
        open_chat(spec)


def test_sampling_that_an_endpoint_does_not_have(server):
    with pytest.raises(InputError, match="min_p"):
        opened(server, "anthropic").answer(said("a"), SamplingParams(min_p=0.1))
    with pytest.raises(InputError, match="temperature=-1"):
        opened(server, "openai").answer(said("a"), SamplingParams(temperature=-1))


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "system", "user"], ["tool"]])
def test_dialogues_that_no_endpoint_takes(server, roles):
    dialogue = [Message(role, "x") for role in roles]
    with pytest.raises(InputError, match="dialogue 1"):
        opened(server, "openai").answer([*said("a"), dialogue], PARAMS)
    assert server.journal() == []
