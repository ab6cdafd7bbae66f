"""Users played by a model: behind a real endpoint, whose journal has the requests, or local."""

import json

import pytest

from interact_jax.endpoints.chat import open_chat
from interact_jax.endpoints.retrying import Patience
from interact_jax.generation.chat_model import LocalChatModel
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import open_engine
from interact_jax.opening import open_model
from interact_jax.schema import InputError, Message
from interact_jax.users import Persona, PlayedUser, Talk
from interact_jax.users.played import INSTRUCTION, fit, shorten, token_limit
from interact_jax.users.user import FAILED, FOLLOW_UP
from tests.servers.chat_server import KEY, MODEL, OPENAI
from tests.servers.running import running
from tests.tiny import tiny_model, tiny_tokenizer

CALM = Persona("calm", "This user likes calm.")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("chat_server", tmp_path_factory.mktemp("chat")) as server:
        yield server


@pytest.fixture
def model(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.forget()
    patience = Patience(tries=2, first=0.01)
    return open_chat(f"openai:{MODEL}@{server.url}/v1", patience=patience, concurrency=1)


def talk(*texts, id="c1"):
    roles = ("user", "assistant")
    messages = [Message(roles[n % 2], text) for n, text in enumerate(texts)]
    return Talk(id, messages, "anna")


LONG = talk("first request", "first reply", "second request", "second reply")


def asked(server):
    """The bodies of all requests that were answered."""
    return [entry["body"] for entry in server.journal(OPENAI)]


def shown(server):
    """System and user message of the only request."""
    (body,) = asked(server)
    system, user = body["messages"]
    assert (system["role"], user["role"]) == ("system", "user")
    return system["content"], user["content"]


def saying(text):
    """A fault by which the endpoint says this."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    body = {"choices": [{**choice, "finish_reason": "stop"}]}
    return {"at": OPENAI, "do": "garbage", "text": json.dumps(body)}


def test_persona_is_the_system_message_and_the_exchange_the_only_other(server, model):
    (found,) = PlayedUser("anna", CALM, model).react([LONG])
    system, prompt = shown(server)
    assert found.text == f"You said: {prompt}".strip()
    assert CALM.text in system
    assert "second request" in prompt and "second reply" in prompt
    assert "first" not in prompt
    assert prompt.endswith(INSTRUCTION)
    (body,) = asked(server)
    assert (body["temperature"], body["max_tokens"]) == (0.7, 128)


def test_a_user_may_see_the_whole_conversation(server, model):
    PlayedUser("anna", CALM, model, sees="conversation").react([LONG])
    _, prompt = shown(server)
    places = [prompt.index(part) for part in ("first request", "first reply", "second request")]
    assert places == sorted(places)
    with pytest.raises(InputError, match="sees='all'"):
        PlayedUser("anna", CALM, model, sees="all")


def test_messages_of_the_system_are_not_shown(server, model):
    messages = [Message("system", "secret"), *LONG.messages]
    PlayedUser("anna", CALM, model, sees="conversation").react([Talk("c", messages, "anna")])
    assert "secret" not in shown(server)[1]


def test_seeds_depend_on_seed_name_conversation_and_turn(server, model):
    def seeds(name="anna", seed=0, talks=(LONG,)):
        server.forget()
        PlayedUser(name, CALM, model, seed).react(talks)
        return [body["seed"] for body in asked(server)]

    first, short = seeds(), talk("first request", "first reply")
    assert seeds() == first
    others = [seeds(name="ben"), seeds(seed=1), seeds(talks=[talk("a", "b", "c", "d", id="c2")])]
    assert len({*first, *(other[0] for other in others), seeds(talks=[short])[0]}) == 5
    assert seeds(talks=[short, LONG])[1:] == first


def test_a_failure_makes_no_follow_up_and_is_counted(server, model):
    server.plan(*[{"at": OPENAI, "do": "status", "status": 500}] * 2, saying(" \n"))
    user = PlayedUser("anna", CALM, model)
    reactions = user.react([talk("a", "b", id=str(n)) for n in range(3)])
    assert [found.outcome for found in reactions] == [FAILED, FAILED, FOLLOW_UP]
    assert [bool(found.text) for found in reactions] == [False, False, True]
    assert "500" in reactions[0].error
    assert user.counts == {FOLLOW_UP: 1, FAILED: 2, "prompts cut to the limit": 0}


def test_reasoning_is_no_part_of_a_follow_up(server, model):
    server.plan(saying("<think>\nWell.\n</think>\n\nShorter!"), saying("<think>\nI wonder"))
    reactions = PlayedUser("anna", CALM, model).react([LONG, LONG])
    assert reactions[0].text == "Shorter!"
    assert reactions[1].outcome == FAILED


def test_the_instruction_is_never_cut(server, model):
    user = PlayedUser("anna", CALM, model, limit=2_000, sees="conversation")
    user.react([talk("r" * 5_000, "s" * 900, "begin" + "q" * 9_000 + "end", "a short reply")])
    system, prompt = shown(server)
    assert CALM.text in system
    assert prompt.endswith(INSTRUCTION)
    assert 1_990 < len(system) + len(prompt) <= 2_000
    assert "begin" in prompt and "end\n" in prompt and "a short reply" in prompt
    assert "rrr" not in prompt and "sss" not in prompt
    assert user.counts["prompts cut to the limit"] == 1


def test_what_fits_is_not_cut():
    messages = [("user", "1st"), ("assistant", "2nd"), ("user", "3rd"), ("assistant", "4th")]
    whole, cut = fit(messages, 10_000, len)
    assert not cut
    assert fit(messages, len(whole), len) == (whole, False)
    less, cut = fit(messages, len(whole) - 1, len)
    assert cut and "1st" not in less and "4th" in less


def test_every_room_is_kept_to_and_used():
    messages = [("user", "x" * 300), ("assistant", "yz" * 500)]
    least = len(fit([("user", ""), ("assistant", "")], 10**6, len)[0]) + 14
    for room in range(least, least + 1_400, 7):
        prompt, cut = fit(messages, room, len)
        assert room - 10 < len(prompt) <= room or not cut
        assert cut == ("[...]" in prompt)
        assert prompt.endswith(INSTRUCTION)


def test_a_text_keeps_its_beginning_and_its_end():
    assert shorten("abcdefgh", 8) == "abcdefgh"
    assert shorten("abcdefgh", 5) == "abc [...] gh"
    assert shorten("abcdefgh", 1) == "a [...] "
    assert shorten("abcdefgh", 0) == " [...] "


def test_a_persona_that_leaves_no_room_is_refused(model):
    with pytest.raises(InputError, match="persona long and the instruction leave no room"):
        PlayedUser("anna", Persona("long", "x" * 3_000), model, limit=3_000)


def test_the_state_is_restored_exactly(model):
    user = PlayedUser("anna", CALM, model)
    user.react([LONG, LONG])
    state = json.loads(json.dumps(user.state()))
    other = PlayedUser("anna", CALM, model)
    other.restore(state)
    assert other.state() == user.state() == state
    assert state["counts"][FOLLOW_UP] == 2
    with pytest.raises(InputError, match="was another persona"):
        PlayedUser("anna", Persona("loud", "LOUD"), model).restore(state)
    with pytest.raises(InputError, match="the saved state is of 'anna'"):
        PlayedUser("ben", CALM, model).restore(state)


def test_a_model_of_this_process_plays_a_user(tmp_path):
    tiny_tokenizer(tmp_path)
    tiny_model(tmp_path, "qwen3", num_hidden_layers=1, max_position_embeddings=1024)
    opened = open_model(tmp_path, attention="xla")
    engine = open_engine(opened, opened.load(), rows=2)
    params = SamplingParams(max_new_tokens=8, temperature=0.7)
    limits = token_limit(opened.chat, 1024, params)
    local = LocalChatModel("tiny", engine, opened.chat)
    user = PlayedUser("anna", CALM, local, params=params, **limits)
    talks = [talk("a" * 3_000, "b" * 5_000, id=str(n)) for n in range(2)]  # longer than its context
    first = user.react(talks)
    assert first[0] != first[1]
    assert user.react(talks[::-1]) == first[::-1]
    assert user.counts["prompts cut to the limit"] == 4
