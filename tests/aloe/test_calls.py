"""The cache of calls: what is kept, when, and what becomes of damaged files."""

import pytest

from interact_jax.aloe.calls import ASKED, FAILED, FOUND, CachedModel, CallCache
from interact_jax.generation.chat_model import Answer
from interact_jax.generation.engine import SamplingParams
from interact_jax.schema import InputError, Message

pytestmark = pytest.mark.one_device
PARAMS = SamplingParams(max_new_tokens=8)


class Model:
    """Repeats what it is told, one answer after the other."""

    name = "echo"

    def __init__(self, ends_at="", fails_at=""):
        self.ends_at, self.fails_at, self.asked = ends_at, fails_at, []

    def answer(self, dialogues, params, seeds=None):
        raise AssertionError("all at the end")

    def answer_each(self, dialogues, params, seeds=None):
        for index, (dialogue, seed) in reversed(
            list(enumerate(zip(dialogues, seeds, strict=True)))
        ):
            text = dialogue[-1].content
            if text == self.ends_at:
                raise KeyboardInterrupt
            self.asked.append((text, seed))
            failed = text == self.fails_at
            yield index, Answer("", error="gone") if failed else Answer(f"{text} {seed}")


def said(*texts):
    return [[Message("user", text)] for text in texts]


def texts(answers):
    return [answer.text for answer in answers]


def test_what_arrived_before_an_interruption_is_not_asked_again(tmp_path):
    first, second = Model(ends_at="b"), Model()
    with CallCache.open(tmp_path / "calls") as cache, pytest.raises(KeyboardInterrupt):
        CachedModel(first, {}, cache).answer(said(*"abcd"), PARAMS, [1, 2, 3, 4])
    assert first.asked == [("d", 4), ("c", 3)]
    with CallCache.open(tmp_path / "calls") as cache:
        model = CachedModel(second, {}, cache)
        answers = model.answer(said(*"abcd"), PARAMS, [1, 2, 3, 4])
    assert texts(answers) == ["a 1", "b 2", "c 3", "d 4"]
    assert second.asked == [("b", 2), ("a", 1)]
    assert model.counts == {ASKED: 2, FOUND: 2, FAILED: 0}


def test_equal_calls_are_asked_once_and_others_are_not_taken_for_equal(tmp_path):
    model = Model()
    with CallCache.open(tmp_path / "calls") as cache:
        one = CachedModel(model, {"model": "one"}, cache)
        assert texts(one.answer(said("a", "a", "a"), PARAMS, [5, 5, 6])) == ["a 5", "a 5", "a 6"]
        assert len(model.asked) == 2
        system = [Message("system", "a"), Message("user", "a")]
        one.answer([system], PARAMS, [5])
        one.answer(said("a"), SamplingParams(max_new_tokens=9), [5])
        CachedModel(model, {"model": "two"}, cache).answer(said("a"), PARAMS, [5])
        assert len(model.asked) == 5
        one.answer(said("a"), PARAMS, [5])
        assert len(model.asked) == 5


def test_failures_are_not_kept(tmp_path):
    failing, model = Model(fails_at="a"), Model()
    with CallCache.open(tmp_path / "calls") as cache:
        cached = CachedModel(failing, {}, cache)
        answers = cached.answer(said("a", "b"), PARAMS, [1, 2])
        assert [(a.text, a.error) for a in answers] == [("", "gone"), ("b 2", "")]
        assert cached.counts[FAILED] == 1
        assert texts(CachedModel(model, {}, cache).answer(said("a", "b"), PARAMS, [1, 2])) == [
            "a 1",
            "b 2",
        ]
    assert model.asked == [("a", 1)]


def test_any_text_is_kept_and_many_are_found(tmp_path):
    with CallCache.open(tmp_path / "calls") as cache:
        odd = "\ud800 \0 \u2028 ünï"
        cache.put("00", odd)
        for number in range(1200):
            cache.put(f"{number:04x}", str(number))
        found = cache.get([f"{number:04x}" for number in range(1300)] + ["00"])
    assert len(found) == 1201 and found["00"] == odd and found["0011"] == "17"


def test_one_program_at_a_time_and_no_other_file(tmp_path, monkeypatch):
    with CallCache.open(tmp_path / "calls") as cache:
        cache.put("00", "a")
        connect = __import__("sqlite3").connect
        quick = lambda *a, **k: connect(*a, **{**k, "timeout": 0})  # noqa: E731
        monkeypatch.setattr("interact_jax.aloe.calls.sqlite3.connect", quick)
        with pytest.raises(InputError, match="another program is using it"):
            CallCache.open(tmp_path / "calls").__enter__()
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(InputError, match="not a file of calls, or damaged"):
        CallCache.open(tmp_path / "text").__enter__()
