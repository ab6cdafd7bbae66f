"""The second shipped model: hints are obeyed, cues are not, at the tenth turn as at the first."""

import pytest

from interact_jax import pocket
from interact_jax.models import hf
from interact_jax.pocket.speaker import Speaker
from pocket_model import talk_gates

pytestmark = pytest.mark.one_device


@pytest.fixture(scope="module")
def speaker():
    return Speaker.load(hf.resolve("pocket-talks"), rows=32)


def test_files_are_small_and_the_tokenizer_is_that_of_the_other_model():
    talks = hf.resolve("pocket-talks")
    assert sum(file.stat().st_size for file in talks.iterdir()) < 5_000_000
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (talks / name).read_bytes() == (pocket.MODEL / name).read_bytes()


def test_hints_are_obeyed_at_the_first_and_the_tenth_turn(speaker):
    for turn in talk_gates.TURNS:
        found = talk_gates.measure(speaker, "six styles named", turn, 32, seed=11)
        assert found["obeyed"] > 0.9 and found["correct"] > 0.85


@pytest.mark.slow
def test_cues_are_ignored(speaker):
    found = talk_gates.measure(speaker, "none", 10, 64, seed=11)
    assert abs(found["cues"]) < 0.12 and abs(found["other styles"] - 0.4) < 0.08
    assert found["correct"] > 0.85
