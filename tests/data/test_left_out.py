"""Steps of which nothing can be used: the run makes up for them, and resumes as if it had not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from interact_jax.data.chat import ChatFormat
from interact_jax.data.draws import Draws
from interact_jax.data.first_steps import first_trees, packing_for
from interact_jax.data.limits import Limits
from interact_jax.data.pipeline import LogBatches
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.schema import Conversation, InputError, Message
from tests.data.test_stored import SETTINGS, Listed
from tests.tiny import tiny_tokenizer

COUNT = 24
LOST = "conversations dropped: a message contains"


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return ChatFormat.load(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def talks(useless) -> list[Conversation]:
    """Of one interaction each; those with a special token cannot be used."""
    found = []
    for n in range(COUNT):
        texts = [f"Number {n}?", f"{n}", "<|im_end|>" if n in useless else "Thanks"]
        turns = [Message(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
        found.append(Conversation(f"c{n}", tuple(turns)))
    return found


def order(seed: int = 3) -> list[int]:
    draws = Draws([1] * COUNT, SimpleNamespace(conversations=2, interactions=0), seed)
    return draws.course.take((0,), COUNT).tolist()


def batches(useless, chat, folder, epochs=2.0, workers=0) -> LogBatches:
    dataset = StoredDataset(
        Listed(talks(useless)), Tokeniser(chat, SETTINGS, "tree"), folder, workers
    )
    draws = Draws(dataset.interactions, SimpleNamespace(conversations=2, interactions=0), 3, epochs)
    return LogBatches(dataset, draws, packing_for(dataset, draws, 64, 2, 1), Limits(8, 4))


def names(batch) -> set[str]:
    return {reply.target.conversation for tree in batch.trees for reply in tree.replies}


def all_of(source: LogBatches) -> list[set[str]]:
    return [names(source.next()) for _ in range(source.steps_left())]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_step_takes_its_place(chat, tmp_path, workers):
    drawn = order()
    useless = {*drawn[4:8], *drawn[10:12]}  # steps 3, 4 and 6 of the first epoch
    source = batches(useless, chat, tmp_path, workers=workers)
    assert source.steps_left() == COUNT
    seen, lefts = [], []
    for _ in range(COUNT):
        seen.append(names(source.next()))
        lefts.append(source.steps_left())
    assert lefts == list(range(COUNT))[::-1]
    assert seen[:4] == [{f"c{n}" for n in drawn[start : start + 2]} for start in (0, 2, 8, 12)]
    assert source.drawn > 2 * COUNT  # what was left out was made up for behind the end
    endless = Draws([1] * COUNT, SimpleNamespace(conversations=2, interactions=0), 3)
    everything = [
        {f"c{n}" for n in step if n not in useless} for step in endless_steps(endless, source.drawn)
    ]
    assert seen == [step for step in everything if step]
    with pytest.raises(IndexError):
        source.next()
    left_out = len(everything) - COUNT
    text = f"{left_out} steps replaced by the next ones: nothing of them can be used"
    assert text in source.summary()
    assert any("special" in line for line in source.summary())
    source.dataset.close()


def endless_steps(draws: Draws, drawn: int) -> list[list[int]]:
    """Its steps up to there."""
    place, steps = (0,), []
    while place[0] < drawn:
        steps.append(draws.step(place))
        place = draws.course.after(place, steps[-1])
    return steps


@pytest.mark.parametrize("stop", [1, 2, 3, 11, 22, 23])
def test_a_resumed_run_makes_up_for_as_much(chat, tmp_path, stop):
    drawn = order()
    useless = {*drawn[4:8], *drawn[10:12]}
    source = batches(useless, chat, tmp_path)
    seen = [names(source.next()) for _ in range(COUNT)]
    first = batches(useless, chat, tmp_path)
    for _ in range(stop):
        first.next()
    again = batches(useless, chat, tmp_path)
    again.seek(first.position())
    assert again.steps_left() == COUNT - stop
    assert all_of(again) == seen[stop:]


def test_a_run_whose_steps_are_all_left_out_goes_on_behind_its_end(chat, tmp_path):
    drawn = order()
    source = batches(set(drawn[:4]), chat, tmp_path, epochs=4 / COUNT)
    assert source.steps_left() == 2
    assert all_of(source) == [{f"c{n}" for n in drawn[at : at + 2]} for at in (4, 6)]
    assert len(first_trees(source.dataset, source.draws)) == 2


def test_an_epoch_of_nothing_is_an_error(chat, tmp_path):
    with pytest.raises(InputError, match=r"24 conversations in a row.*special") as error:
        batches(set(range(COUNT)), chat, tmp_path)
    assert "24 conversations dropped" in str(error.value)


def test_what_is_lost_later_is_an_error_then(chat, tmp_path):
    """Where the first epoch had something: of a data set that was spoilt since."""
    source = batches(set(), chat, tmp_path)
    source.next()
    position = source.position()
    spoilt = batches({*range(COUNT)} - {order()[0]}, chat, tmp_path)
    spoilt._fingerprint = source._fingerprint
    spoilt.seek(position)
    with pytest.raises(InputError, match=r"in a row"):
        for _ in range(COUNT):
            spoilt.next()
