"""The users of an online run: who is opened, what they say, which settings go together."""

import json

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.generation.chat_model import LocalChatModel
from interact_jax.generation.local import sampler_of
from interact_jax.online.people import open_users
from interact_jax.online.prompts import open_prompts
from interact_jax.online.schedule import parse_schedule
from interact_jax.opening import open_model
from interact_jax.pocket import words
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message
from interact_jax.users import PlayedUser, ScriptedUser, Talk, load_personas, react
from interact_jax.users.user import FOLLOW_UP, LEFT
from tests.logs import write
from tests.online.test_prompts import settings
from tests.servers.chat_server import KEY, MODEL, OPENAI
from tests.servers.running import running
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_tokenizer(folder)
    tiny_model(folder, "qwen3", num_hidden_layers=1, max_position_embeddings=2048)
    return folder


@pytest.fixture(scope="module")
def chat(folder):
    return ChatFormat.load(folder)


def opened(chat, users, schedule="", prompts="pocket", policy=None, **changes):
    cfg = settings(prompts, **changes)
    cfg.attention, cfg.model.dtype = "xla", "float32"
    return open_users(cfg, parse_schedule(users, schedule), open_prompts(cfg, chat), policy=policy)


def talk(user, id="c1", request="What is the capital of France?", reply="Paris."):
    return Talk(id, [Message("user", request), Message("assistant", reply)], user)


def said(users, name, count=30):
    return [found.text for found in react(users, [talk(name, str(n)) for n in range(count)])]


# ---------------------------------------------------------------------------------------- scripted


def test_every_phase_has_its_users(chat):
    users = opened(chat, "emoji | polite", "5: -emoji; 9: emoji")
    assert list(users) == ["emoji", "polite", "-emoji"]
    assert [user.preference for user in users.values()] == [
        {"emoji": True},
        {"polite": True},
        {"emoji": False},
    ]
    assert {name: user.name for name, user in users.items()} == {name: name for name in users}
    complaints = {text for text in said(users, "emoji") if not read_request(text)}
    assert complaints and complaints <= set(words.COMPLAINTS["emoji"][True])


def test_what_they_say_depends_on_seed_name_and_conversation(chat):
    users = opened(chat, "emoji | polite")
    first = said(users, "emoji")
    assert said(users, "emoji") == first == said(opened(chat, "emoji"), "emoji")
    assert said(opened(chat, "emoji", seed=1), "emoji") != first


def test_they_may_leave_or_say_something_unrelated(chat):
    users = opened(chat, "emoji", leaves=0.5)
    said(users, "emoji")
    assert 5 <= users["emoji"].counts[LEFT] <= 25
    never = opened(chat, "emoji")
    said(never, "emoji")
    assert never["emoji"].counts[LEFT] == 0
    unrelated = said(opened(chat, "emoji", unrelated=True), "emoji")
    assert not set(unrelated) & set(words.COMPLAINTS["emoji"][True])


def test_scripted_users_are_asked_about_their_world_only(tmp_path, chat):
    mine = write(tmp_path, "p.jsonl", [{"prompt": "Capital of France?"}])
    assert isinstance(opened(chat, "emoji", prompts=mine)["emoji"], ScriptedUser)
    other = write(tmp_path, "p.jsonl", [{"prompt": "Capital of France?"}, {"prompt": "Hi"}])
    with pytest.raises(InputError, match=r"p\.jsonl:2: no request of the pocket world.*emoji"):
        opened(chat, "emoji", prompts=other)


# ------------------------------------------------------------------------------------------ played


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running("chat_server", tmp_path_factory.mktemp("chat")) as server:
        yield server


def test_personas_are_played_by_an_endpoint(server, chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.forget()
    model = f"openai:{MODEL}@{server.url}/v1"
    users = opened(chat, "poetic | emoji", "5: never_asks", user_model=model)
    kinds = [type(user) for user in users.values()]
    assert kinds == [PlayedUser, ScriptedUser, PlayedUser]
    found = react(users, [talk("poetic", request="Hi"), talk("never_asks", request="Hi")])
    assert [reaction.outcome for reaction in found] == [FOLLOW_UP] * 2
    bodies = [entry["body"] for entry in server.journal(OPENAI)]
    systems = [body["messages"][0]["content"] for body in bodies]
    for name, system in zip(("poetic", "never_asks"), systems, strict=True):
        assert load_personas()[name].text in system


def test_personas_are_played_by_a_model_of_this_process(folder, chat):
    users = opened(chat, "poetic", user_model=str(folder))
    (user,) = users.values()
    assert user.model.context == 2048
    talks = [talk("poetic", str(n), "x" * 3_000) for n in range(2)]
    found = react(users, talks)
    assert [reaction.error for reaction in found] == ["", ""]
    assert user.counts["prompts cut to the limit"] == 2
    assert react(users, talks[::-1]) == found[::-1]


def test_the_policy_plays_a_persona_only_if_asked_to(folder, chat):
    model = open_model(folder, attention="xla")
    policy = LocalChatModel("policy", sampler_of(model, rows=1), model.chat, 2048)
    users = opened(chat, "poetic", user_model="policy", policy=policy)
    assert users["poetic"].model is policy
    with pytest.raises(InputError, match="trains no model"):
        opened(chat, "poetic", user_model="policy")
    with pytest.raises(InputError, match=r"poetic is a persona, and nobody plays it"):
        opened(chat, "poetic", policy=policy)


@pytest.mark.parametrize(
    ("users", "changes", "message"),
    [
        ("emoji", {"user_model": "openai:x"}, r"user_model=openai:x: there is nobody to play"),
        ("poetic", {"user_model": "openai:x", "leaves": 0.1}, r"leaves=0\.1: only users of the"),
        ("poetic", {"user_model": "openai:x", "unrelated": True}, r"unrelated=True: only users"),
        ("poetic", {"user_model": "/absent"}, "absent"),
    ],
)
def test_settings_that_do_not_go_together(chat, users, changes, message):
    with pytest.raises(InputError, match=message):
        opened(chat, users, **changes)


def test_nothing_but_counts_is_kept_over_a_restart(chat):
    users = opened(chat, "emoji", "5: -emoji")
    said(users, "emoji", 7)
    states = json.loads(json.dumps({name: user.state() for name, user in users.items()}))
    again = opened(chat, "emoji", "5: -emoji")
    for name, user in again.items():
        user.restore(states[name])
    assert again["emoji"].counts == users["emoji"].counts
    assert said(again, "emoji") == said(users, "emoji")
