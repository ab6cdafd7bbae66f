"""What an online step learns from are the ids and log-probabilities that were drawn."""

import numpy as np
import pytest

from interact_jax import sharding, train
from interact_jax.data.recipes import PLAIN
from interact_jax.known import SAMPLER
from interact_jax.online.record import Record
from interact_jax.scoring import FORWARD, look
from interact_jax.signal import logps_of
from tests.online.runs import started

pytestmark = pytest.mark.compiled_quickly


def test_ids_are_learned_as_sampled_even_where_their_text_has_others(tmp_path):
    """At a high temperature, most replies are not what the tokenizer would make of their text."""
    run = started(tmp_path, {"online.temperature": 20.0, "online.users": "emoji"})
    batch = run.source.next(run.state)
    talks = [p.conversation for p in Record(tmp_path).step(1).played]
    sampled = {f"{talk.id}_1": talk.messages[1].token_ids for talk in talks}
    replies = [reply for tree in batch.trees for reply in tree.replies]
    assert replies and all(tuple(r.target.y) == sampled[r.target.id] for r in replies)
    chat = run.model.chat
    assert any(
        chat.encode(talk.messages[1].content) != list(sampled[f"{talk.id}_1"][:-1])
        for talk in talks
    )
    logps = logps_of(run.model.decoder, run.state.params, batch.trees, run.model.mesh, (PLAIN,))
    for reply, seen in zip(replies, logps, strict=True):
        np.testing.assert_allclose(seen[PLAIN], reply.target.known[SAMPLER], atol=1e-4)


@pytest.mark.parametrize(
    "old, exactly",
    [("trainer", True), pytest.param("sampler", False, marks=pytest.mark.slow)],
)
def test_on_policy_the_ratio_is_one(old, exactly, tmp_path):
    more = {"objective.name": "sdpo", "objective.ratio": old, "objective.old_every": 1}
    run = started(tmp_path, {**more, "steps": 2})
    for _ in range(2):
        sums, batch = train.compute_sums(run, run.source.next(run.state))
        for micro in batch.micro:
            student, before = ratio_parts(run, micro, old)
            counts = np.asarray(micro.replies.weight_BxR) > 0
            if exactly:
                np.testing.assert_array_equal(student[counts], before[counts])
            else:
                np.testing.assert_allclose(student[counts], before[counts], atol=1e-4)
        run.state, _ = run.update(run.state, sums)
    run.checkpoints.close()


def ratio_parts(run, micro, old):
    """Log-probabilities [B, R] of the student, and those that the ratio is taken against."""
    with sharding.on(run.model.mesh):
        placed = sharding.place_rows(micro, run.model.mesh)
        seen = look(
            FORWARD["tree"],
            run.model.decoder,
            run.state.all_params(),
            placed,
            run.method.sources,
        )
        quantities = run.method.quantities(seen, placed.replies)
    before = quantities["logp_old"] if old == "trainer" else micro.replies.known[SAMPLER]
    return np.asarray(quantities["logp_student"]), np.asarray(before)
