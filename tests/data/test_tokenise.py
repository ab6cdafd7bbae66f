"""Tokenising in worker processes: the same trees, the same errors."""

from __future__ import annotations

import collections
import dataclasses
import gc
import itertools
import os

import numpy as np
import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.collecting import collecting_rarely
from interact_jax.data.dataset import load_dataset
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.tokenise import PORTION, Tokenised
from interact_jax.data.tokenise_all import EACH, tokenise, workers_for
from interact_jax.data.workers import Workers, cores
from interact_jax.schema import Conversation, InputError, Message, RunStopped
from tests.runs import TALKS, records, write_lines
from tests.tiny import tiny_tokenizer

CONVERSATIONS = 2 * PORTION + 5
NO_REPLY_LEFT = EncodeSettings(ignore_first=2)  # drops "y" and counts it


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("think"), "think"))


def logs(directory, bad=()):
    """Dialogues in which the `bad` lines (from 1) spell a special token."""
    talks = [list(TALKS[n % len(TALKS)]) for n in range(CONVERSATIONS)]
    for line in bad:
        talks[line - 1][0] += " <|im_end|>"
    return write_lines(directory / "logs.jsonl", records(talks))


def plain(tree):
    """A tree as nested lists, which can be compared."""
    return dataclasses.asdict(
        tree,
        dict_factory=lambda pairs: {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in pairs
        },
    )


@pytest.fixture
def no_help(monkeypatch):
    """Workers do everything: the main process does not begin."""
    monkeypatch.setattr(Workers, "is_ready", lambda _: True)


def test_workers_change_nothing(chat, tmp_path, no_help):
    file = logs(tmp_path, bad=[3, PORTION + 1])
    alone, shared_out = (
        load_dataset(str(file), "auto", chat, NO_REPLY_LEFT, "tree", workers) for workers in (0, 2)
    )
    assert len(alone.counts) == 2
    for name in ("conversations", "interactions", "counts", "read", "prints"):
        assert getattr(shared_out, name) == getattr(alone, name), name
    for one, other in zip(alone.trees, shared_out.trees, strict=True):
        assert [plain(tree) for tree in one] == [plain(tree) for tree in other]


def test_the_main_process_begins(chat, tmp_path, monkeypatch):
    file, ready = logs(tmp_path), itertools.chain([False] * 3, itertools.repeat(True))
    monkeypatch.setattr(Workers, "is_ready", lambda _: next(ready))
    asked = list[int]()
    submit = Workers.submit
    monkeypatch.setattr(
        Workers,
        "submit",
        lambda self, function, portion: (
            asked.append(len(portion)) or submit(self, function, portion)
        ),
    )
    alone, shared_out = (
        load_dataset(str(file), "auto", chat, EncodeSettings(), "tree", workers)
        for workers in (0, 1)
    )
    assert asked == [PORTION, PORTION, CONVERSATIONS - 2 * PORTION - 3]
    assert shared_out.prints == alone.prints


@pytest.mark.slow
def test_the_first_error_comes_with_file_and_line(chat, tmp_path, no_help):
    file = logs(tmp_path, bad=[PORTION + 2, CONVERSATIONS])
    settings = EncodeSettings(special_tokens="stop")
    messages = []
    for workers in (0, 2):
        with pytest.raises(InputError) as error:
            load_dataset(str(file), "auto", chat, settings, "tree", workers)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    assert f"logs.jsonl:{PORTION + 2}:" in messages[0]


def test_the_garbage_collector_is_as_before(chat, tmp_path):
    usual, stop = gc.get_threshold(), EncodeSettings(special_tokens="stop")
    load_dataset(str(logs(tmp_path)), "auto", chat, EncodeSettings(), "tree")
    with pytest.raises(InputError):
        load_dataset(str(logs(tmp_path, bad=[1])), "auto", chat, stop, "tree")
    assert gc.get_threshold() == usual


class Dying:
    """Does nothing in this process, and ends others."""

    def __init__(self):
        self.here = os.getpid()

    def all(self, conversations):
        if os.getpid() != self.here:
            os._exit(1)
        return (Tokenised([], 0, collections.Counter()) for _ in conversations)


def test_a_worker_that_dies_stops_the_run_with_a_remedy():
    conversations = itertools.repeat(Conversation("c", (Message("user", "Hi"),)))
    with pytest.raises(RunStopped, match=r"data\.workers lower"):
        collections.deque(tokenise(conversations, Dying(), workers=1), maxlen=0)


def test_workers_are_started_for_many_conversations():
    def talks(characters):
        return [Conversation("c", (Message("user", "x" * (characters // 2)),))] * 2

    assert workers_for(talks(2 * EACH - 2), most=8) == 0  # one would do what this process can
    assert workers_for(talks(3 * EACH), most=8) == 3
    assert workers_for(talks(30 * EACH), most=8) == 8
    assert workers_for(talks(30 * EACH), most=1) == 0


def test_cores_are_counted_where_the_system_says_no_more(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cores() == (os.cpu_count() or 1)


def test_the_collector_rests_while_anybody_tokenises():
    usual = gc.get_threshold()
    first, second = collecting_rarely(), collecting_rarely()
    with first:
        second.__enter__()
    assert gc.get_threshold()[0] > usual[0]  # the second began within the first, and goes on
    second.__exit__(None, None, None)
    assert gc.get_threshold() == usual
