"""A chat without a terminal: what is sampled, kept, learned and taken back."""

from __future__ import annotations

import io

import jax
import numpy as np
import pytest

from interact_jax import config, sharding
from interact_jax.chatting import ChatLog, Learner, Session, Terminal, check_settings
from interact_jax.chatting.screen import Screen
from interact_jax.data.conversations import read_conversations
from interact_jax.generation import SamplingParams
from interact_jax.opening import open_for
from interact_jax.printable import printable
from interact_jax.schema import InputError
from launch import train
from tests.runs import ONE_ROW_SHARD, overrides, read_lines, tensors, tiny

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]

NEW_TOKENS = 6
SETTINGS = {
    "data.max_length": 256,
    "data.special_tokens": "keep",  # a random model says anything
    "optim.lr": 0.01,
    **ONE_ROW_SHARD,
}
MESSAGES = ("What is the capital of France?", "In one word.", "Thank you.")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    tiny(directory)
    return directory


def given(directory, **settings):
    return overrides({**SETTINGS, "model.path": directory, **settings})


@pytest.fixture(scope="module")
def learner(directory):
    """One for all tests: each begins with the parameters of the file."""
    cfg = config.load("chat", given(directory))
    check_settings(cfg)
    model = open_for(cfg, sharding.make_mesh(**cfg.mesh))
    return Learner(cfg, model, model.load())


@pytest.fixture(scope="module")
def only_session(learner):
    return Session(learner, SamplingParams(NEW_TOKENS))


@pytest.fixture
def session(only_session, tmp_path):
    """The session with a log, and nothing said or learned yet."""
    while only_session.undo():
        pass
    only_session._log = ChatLog(tmp_path / "chat.jsonl")
    only_session.set_system("")
    return only_session


@pytest.fixture
def log(session):
    return session._log.path


def talk(session, messages=MESSAGES):
    return [session.send(message) for message in messages]


def params_of(session):
    return jax.tree.map(np.array, session.learner.params)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_reply_is_kept_as_it_was_drawn_and_as_training_sees_it(session, log):
    """Its ids follow the prompt that a run on the log makes of the same messages: log-probabilities
    are those of the trainer."""
    session.set_system("Be polite.")
    for n, message in enumerate(MESSAGES, start=1):
        assert 1 <= len(session.send(message).message.token_ids) <= NEW_TOKENS
        (line,) = read_lines(log)
        assert len(line["messages"]) == 1 + 2 * n
    (conversation,), report = read_conversations(str(log))
    assert not report.mended
    exchanges = session.transcript.exchanges
    assert conversation.messages[1:] == tuple(m for pair in exchanges for m in pair)
    for scored, (_, reply) in zip(session.learner.score(conversation), exchanges, strict=False):
        assert tuple(scored.y) == reply.token_ids
        np.testing.assert_allclose(scored.logp_student, reply.logps, atol=1e-4)
        # Drawn from the ids that the tokenizer has, fewer than the model's.
        assert (np.array(reply.sampling_logps) > np.array(reply.logps) - 1e-5).all()


def test_a_reply_is_shown_while_it_is_drawn_and_may_be_stopped(session, log):
    pieces, asked = [], []

    def stopped():
        asked.append(len(pieces))
        return len(asked) == 3

    reply = session.send("Say something.", pieces.append, stopped)
    assert len(reply.message.token_ids) == 3 == len(asked)
    assert asked[0] <= asked[-1] and "".join(pieces) == reply.message.content
    assert reply.notes == [] and not reply.completion.finished
    kept = read_lines(log)[0]["messages"][-1]
    assert kept["token_ids"] == list(reply.message.token_ids)
    assert len(kept["logps"]) == len(kept["sampling_logps"]) == 3


def test_what_was_said_can_be_taken_back_and_said_again(session, log):
    third = talk(session)[-1]
    again = session.retry()
    assert again.message.token_ids != third.message.token_ids  # of other random numbers
    messages = read_lines(log)[0]["messages"]
    assert [m["content"] for m in messages[::2]] == list(MESSAGES)
    assert messages[-1]["token_ids"] == list(again.message.token_ids)
    assert [session.back() for _ in MESSAGES] == list(reversed(MESSAGES))
    assert read_lines(log) == []
    for nothing in (session.back, session.retry):
        with pytest.raises(InputError, match="no exchange"):
            nothing()
    session.send("Hi")
    session.new()
    session.send("Hi")
    assert len({line["id"] for line in read_lines(log)}) == 2
    assert session.set_system("Be brief.") and not session.set_system("Be polite.")
    session.send("Hi")
    assert read_lines(log)[2]["messages"][0] == {"role": "system", "content": "Be polite."}
    assert len(read_lines(log)) == 3


def test_a_retry_at_temperature_0_says_so_if_it_changed_nothing(session, monkeypatch):
    monkeypatch.setattr(session, "params", SamplingParams(NEW_TOKENS, temperature=0))
    last = talk(session)[-1].message
    same = session.retry()
    assert same.message.content == last.content
    assert any("at temperature 0" in note for note in same.notes)
    session.learn(3)
    other = session.retry()
    assert other.message.content != last.content
    assert not any("at temperature 0" in note for note in other.notes)


def test_a_message_that_cannot_be_sent_changes_nothing(session, log):
    session.send("Hi")
    before = log.read_bytes()
    with pytest.raises(InputError, match="leaves no room for a reply"):
        session.send("long " * 600)
    with pytest.raises(InputError, match="is no character"):
        session.send("\udcff")
    assert log.read_bytes() == before and len(session.transcript.exchanges) == 1


def test_what_is_unusual_is_said_once(session):
    notes = [session.send("Is <|im_end|> special? " + "long " * 40).notes for _ in range(5)]
    assert all("'<|im_end|>' in the message is read as a special token" in n for n in notes)
    said = [n for n, each in enumerate(notes) if any("context of 512" in note for note in each)]
    assert len(said) == 1 and session._left_out > 0


@pytest.mark.parametrize("steps", [2])
def test_learning_is_what_a_run_on_the_log_does(session, log, directory, tmp_path, steps):
    """Bit for bit: the same arrays by the same programs, in another order of events."""
    talk(session)
    lesson = session.learn(steps)
    exported = session.save(str(tmp_path / "saved"))
    arguments = given(directory, **{"data.path": log, "steps": steps, "check_hindsight": 0})
    quiet = overrides({"report.interactions": 0})
    train.main(["--config", "chat", "--workdir", str(tmp_path / "run"), *arguments, *quiet])
    expected, found = tensors(tmp_path / "run/export"), tensors(exported)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)
    assert any((tensors(directory)[name] != tensor).any() for name, tensor in expected.items())
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    np.testing.assert_allclose(lesson.losses, [line["loss"] for line in lines], atol=1e-5)
    assert lesson.before.mean == pytest.approx(lines[0]["signal_mean"], abs=1e-5)
    assert lesson.before.size == pytest.approx(lines[0]["signal_abs_mean"], abs=1e-5)
    assert lesson.interactions == 2 and lesson.after != lesson.before


def test_lessons_are_taken_back_one_by_one(session):
    talk(session)
    states = [params_of(session)]
    for steps in (1, 2):
        session.learn(steps)
        states.append(params_of(session))
    assert session.unsaved == 3
    for number, expected in ((1, states[1]), (0, states[0])):
        assert session.undo()
        assert_same(params_of(session), expected)
        assert session.unsaved == number
    assert not session.undo()
    session.learn(1)  # with the moments of the first time
    assert_same(params_of(session), states[1])


def test_a_lesson_that_fails_or_is_stopped_is_whole_or_not_at_all(session):
    talk(session)
    before = params_of(session)

    def fail():
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        session.learn(3, fail)
    assert_same(params_of(session), before)
    assert session.unsaved == 0 and not session.undo()
    assert len(session.learn(3, lambda: True).losses) == 1
    assert session.unsaved == 1
    session.send("It still answers.")


def test_nothing_to_learn_from_says_so_and_why(session):
    for learn in (session.learn, session.signal):
        with pytest.raises(InputError, match="nothing to learn from: that takes a reply"):
            learn()
        session.send("Hi")
    session.learner.cfg.data.special_tokens = "drop"
    try:
        session.new()
        talk(session, ["Is <|im_end|> special?", "Well?"])
        with pytest.raises(InputError, match="1 conversation dropped: text of a special token"):
            session.learn()
    finally:
        session.learner.cfg.data.special_tokens = "keep"
    assert not session.undo()


def test_the_signal_is_of_the_last_reply_with_a_follow_up(session):
    replies = talk(session)
    scored, interaction = session.signal()
    assert tuple(scored.y) == replies[1].message.token_ids
    assert (interaction.y, interaction.o.content) == (replies[1].message, MESSAGES[2])
    everything = session.learner.score(session.transcript.read())
    np.testing.assert_allclose(scored.signal, everything[-1].signal, atol=1e-4)
    session.learn(3)
    later, _ = session.signal()
    assert not np.allclose(later.signal, scored.signal, atol=1e-3)


def test_a_model_is_never_saved_over_itself(session, directory):
    with pytest.raises(InputError, match="would overwrite the model that it came from"):
        session.save(str(directory))


def scripted(session, *lines):
    """What a script with these lines sees: standard output, standard error."""
    out, remarks = io.StringIO(), io.StringIO()
    terminal = Terminal(session, Screen(out, remarks), prompt=False)
    try:
        terminal.run(io.BytesIO("".join(f"{line}\n" for line in lines).encode()))
    finally:
        terminal.written = out.getvalue(), remarks.getvalue()
    return terminal.written


def test_a_script_gets_replies_and_answers(session, tmp_path):
    out, remarks = scripted(session, "Hi", "", "//new", "/learn 2", "/signal", "/undo", "/undo")
    replies = [reply.content for _, reply in session.transcript.exchanges]
    said = [user.content for user, _ in session.transcript.exchanges]
    assert said == ["Hi", "/new"] and out.startswith(printable(replies[0]))
    assert "learned: 2 steps on 1 interaction; loss " in out
    assert "the parameters are those before the last /learn; nothing more to undo" in out
    assert out.endswith("nothing to undo\n") and "\x1b" not in out + remarks
    assert "next message: /new" in out and "student" in out  # no colours: numbers
    folder = tmp_path / "a b"
    out, remarks = scripted(session, "/learn", f"/save {folder}", "/back", "/quit", "not read")
    assert f"saved in float32: {folder}" in out and tensors(folder)
    assert out.endswith("removed: /new (1 exchange left)\n") and remarks == ""
    said, remarks = scripted(session, "Well?", "/learn", "/system Be brief.", "/system", "/help")
    assert "the system message is set; a new conversation\nBe brief.\n" in said
    assert "/learn [N]" in said and remarks.endswith("1 step learned and not saved\n")


def test_a_script_ends_at_its_first_mistake(session):
    with pytest.raises(InputError, match=r"standard input:2: /singal: .* Did you mean /signal\?"):
        scripted(session, "Hi", "/singal", "Hello")
    assert len(session.transcript.exchanges) == 1
    with pytest.raises(InputError, match="standard input:1: not UTF-8"):
        Terminal(session, Screen(io.StringIO(), io.StringIO()), prompt=False).run(
            io.BytesIO(b"\xff\n")
        )


def test_settings_that_a_chat_decides_or_cannot_follow():
    cfg = config.load("quickstart")
    changed = check_settings(cfg)
    assert "optim.schedule=cosine -> constant" in changed
    assert (cfg.batch.conversations, cfg.batch.interactions) == (1, 0)
    assert check_settings(cfg) == []
    for setting, said in (
        ("skip.signal=0.1", "a chat learns from every interaction"),
        ("objective.name=dpo", "Set objective.reference=step"),
    ):
        with pytest.raises(InputError, match=said):
            check_settings(config.load("chat", [f"--config.{setting}"]))
