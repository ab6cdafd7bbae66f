import collections
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from interact_jax import pocket
from interact_jax.data.chat import HINDSIGHT, ChatFormat
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import read_config
from interact_jax.pocket import cues, words, world
from interact_jax.pocket.reading import read_request
from interact_jax.schema import InputError, Message, TokenStream
from pocket_model import lessons, talks, tokenizer, training

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture(scope="module")
def chat():
    return ChatFormat.load(pocket.MODEL)


def test_a_conversation_grows_at_its_end_only(chat):
    """A reply in the history is rendered as it was generated, its EOS behind it."""
    rng = random.Random(0)
    for _ in range(50):
        messages = lessons.draw_lesson(rng).messages
        for end in range(3, len(messages) + 1, 2):
            before, reply = messages[: end - 2], messages[end - 2]
            text = chat.render(before)
            ids = chat.prompt(before)
            whole = chat.prompt(messages[:end])
            ids += chat.reply(reply, text, ids).tolist()
            assert whole[: len(ids)] == ids


def test_hindsight_prompts_are_one_piece(chat):
    for text in HINDSIGHT.values():
        ids = chat.encode(text.replace("{o}", "No emoji please."))
        assert ids[1:] == chat.encode("No emoji please.")


def test_any_text_survives_the_tokenizer(chat):
    for text in ("Grüße, 世界 😊", "a  b\n\nc ", *HINDSIGHT.values()):
        assert chat.decode(chat.encode(text)) == text


@pytest.mark.slow
def test_tokenizer_is_made_from_its_seed(tmp_path):
    tokenizer.write_tokenizer(tmp_path, seed=1)
    shipped = (pocket.MODEL / "tokenizer.json").read_text()
    assert (tmp_path / "tokenizer.json").read_text() == shipped


def test_learned_tokens_are_the_learned_replies(chat):
    encode = training.LessonEncoder(pocket.MODEL)
    rng = random.Random(0)
    for _ in range(200):
        lesson = lessons.draw_lesson(rng)
        ids, learned = encode(lesson)
        replies = "".join(lesson.messages[i].content + tokenizer.END for i in lesson.learned)
        assert chat.decode([i for i, on in zip(ids, learned, strict=True) if on]) == replies


def test_loss_of_packed_lessons_is_that_of_each_alone():
    course = training.COURSES["hindsight"]
    batch = next(training.batches(training.LessonEncoder(pocket.MODEL), course, rows=2, seed=0))
    config = read_config(training.CONFIG | {"num_hidden_layers": 1, "hidden_size": 32})
    model = Decoder(config)
    params = model.fresh_params(0)
    total, count = 0.0, 0

    @jax.jit
    def losses_of(stream):
        hidden, _ = model.apply({"params": params}, stream)
        logits = hidden[0, :-1] @ head_DxV(params)
        return optax.softmax_cross_entropy_with_integer_labels(logits, stream.id_BxL[0, 1:])

    for row in range(2):
        for segment in range(1, int(batch["segment_BxL"][row].max()) + 1):
            at = batch["segment_BxL"][row] == segment
            length = int(at.sum())
            ids = np.zeros((1, course.row), np.int32)
            ids[0, :length] = batch["id_BxL"][row][at]
            index = np.arange(course.row, dtype=np.int32)[None]
            alone = TokenStream(ids, index, (index < length).astype(np.int32), 0 * ids)
            on = np.flatnonzero(batch["learned_BxL"][row][at])
            total += float(losses_of(alone)[on].sum())
            count += len(on)
    assert count > 20
    packed = training.loss_of(model, params, jax.tree.map(jnp.asarray, batch))
    assert float(packed) == pytest.approx(total / count, rel=1e-5)


def test_parameters_are_saved_whole(tmp_path):
    params = Decoder(read_config(training.CONFIG)).fresh_params(0)
    training.save(params, tmp_path)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, training.load(tmp_path))
    assert all(jax.tree.leaves(same))


def test_training_goes_on_from_the_shipped_model(tmp_path):
    out = tmp_path / "run"
    training.train(out, steps=1, rows=1, lr=0.0, seed=0, save_every=1, start_from=pocket.MODEL)
    shipped, trained = training.load(pocket.MODEL), training.load(out)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), shipped, trained)
    assert all(jax.tree.leaves(same)) and len(jax.tree.leaves(same)) > 10
    written, expected = ((d / "tokenizer.json").read_text() for d in (out, pocket.MODEL))
    assert written == expected


def test_an_export_of_several_runs_has_the_mean_of_their_weights(tmp_path):
    runs = [tmp_path / name for name in ("a", "b", "c")]
    settings = {"steps": 1, "rows": 1, "lr": 1e-3, "save_every": 1}
    for seed, run in enumerate(runs[:2]):
        training.train(run, seed=seed, start_from=pocket.MODEL, **settings)
    training.export(runs[:2], runs[2])
    for a, b, mean in zip(*map(jax.tree.leaves, map(training.load, runs)), strict=True):
        assert (a != b).any() or (a == mean).all()
        np.testing.assert_allclose(mean, (a + b) / 2, rtol=1e-6)
    (runs[1] / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"b/tokenizer\.json differs from that of .*a: "):
        training.export(runs[:2], tmp_path / "d")


def test_system_messages_render(chat):
    text = chat.render([Message("system", "Be brief."), Message("user", "Capital of Peru?")])
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


def named_in(system):
    wishes = words.COMPLAINTS.items()
    return {
        style: on for style, both in wishes for on in both for text in both[on] if text in system
    }


def test_replies_of_talks_are_learned_where_they_are_as_asked(chat):
    """And cues play no part in them, except where a system message says so."""
    rng = random.Random(0)
    encode = training.LessonEncoder(pocket.MODEL)
    systems, unlearned, shares = set(), 0, collections.defaultdict(list)
    for _ in range(150):
        lesson = talks.draw_lesson(rng)
        hinted = lesson.messages[0].role == "system"
        system = lesson.messages[0].content if hinted else ""
        wishes = named_in(system)
        systems.add("mirror" if system == talks.MIRROR else len(wishes))
        spoken = []
        for index in range(hinted, len(lesson.messages), 2):
            spoken.append(lesson.messages[index].content)
            request = read_request(cues.read(spoken[-1])[0])
            reply = world.parse(lesson.messages[index + 1].content)
            assert reply.answer == request.answer and not request.held_out
            if index + 1 not in lesson.learned:
                unlearned += 1
                continue
            inferred = cues.infer(spoken)
            asked = inferred if system == talks.MIRROR else wishes
            assert asked.items() <= reply.styles.items()
            for style in world.STYLES:
                if style not in asked:
                    shares[inferred.get(style)].append(reply.styles[style])
        ids, learned = encode(lesson)
        assert len(ids) <= training.COURSES["talks"].row
        assert ids == chat.prompt(lesson.messages)[: len(ids)]
        replies = "".join(lesson.messages[i].content + tokenizer.END for i in lesson.learned)
        assert chat.decode([i for i, on in zip(ids, learned, strict=True) if on]) == replies
    assert systems == {"mirror", *range(7)} and unlearned > 40
    for share in shares.values():  # nothing known, wanted and not wanted
        assert np.mean(share) == pytest.approx(world.PRIOR, abs=0.08)
    assert set(shares) == {None, True, False}
