"""What a token sees: packed trees equal every path alone, gradients reach ancestors only, and
teacher branches cost one forward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import config, flops, objectives, scoring
from interact_jax.data.pack import pack
from interact_jax.data.recipes import HINDSIGHT, PLAIN
from interact_jax.data.shapes import full_row
from interact_jax.data.tree import paths
from interact_jax.logits import logp
from interact_jax.methods import method_of
from interact_jax.models.decoder import BranchStream, Decoder, head_DxV
from interact_jax.models.families import read_config
from interact_jax.schema import TokenStream
from interact_jax.scoring import Seen, Source
from tests.trees import fill, grow, random_window

pytestmark = pytest.mark.compiled_quickly

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.4,
    "tie_word_embeddings": True,
}
WINDOWED = CONFIG | {"model_type": "mistral", "sliding_window": 5}
VIEWS = (PLAIN, HINDSIGHT)


def decoder_of(raw, remat="none", attention="xla"):
    decoder = Decoder(read_config(raw), remat=remat, attention=attention)
    return decoder, jax.jit(decoder.fresh_params)(0)


def batch_of(seed, history_is, sharing="tree", height=0, row_tokens=64):
    rng = np.random.default_rng(seed)
    windows = [random_window(rng, n, history_is=history_is, name=f"c{n}") for n in (1, 4, 2, 3)]
    trees = [tree for window in windows for tree in grow(window, sharing)]
    capacity = full_row(trees, row_tokens)
    rows = fill(trees, capacity)
    batch, placed = pack(rows, capacity, height or len(rows), ignore_first=1)
    return trees, batch, placed


def line(ids):
    """A TokenStream of one sequence alone."""
    n = len(ids)
    ids, position = np.asarray(ids, np.int32)[None], np.arange(n, dtype=np.int32)[None]
    return TokenStream(ids, position, np.ones_like(ids), np.zeros_like(ids))


@pytest.mark.parametrize(
    "raw, history_is, attention",
    [
        pytest.param(CONFIG, "same", "xla", marks=pytest.mark.slow),
        (CONFIG, "think", "xla"),
        (WINDOWED, "strip", "xla"),
        (WINDOWED, "think", "pallas"),
    ],
)
def test_packed_trees_equal_every_path_alone(raw, history_is, attention):
    decoder, params = decoder_of(raw, attention=attention)
    trees, batch, placed = batch_of(0, history_is)
    see = functools.partial(scoring.one_pass, decoder, views=VIEWS)
    hidden = jax.jit(see)(params, batch)
    path = {(i, kind): ids for tree in trees for i, kind, ids in paths(tree)}
    alone = jax.jit(lambda stream: decoder.apply({"params": params}, stream)[0])
    for p in placed:
        at = (p.row, slice(p.start, p.start + p.length))
        for kind in (PLAIN, HINDSIGHT):
            ids = path[p.id, kind]
            padded = line([*ids, *[0] * (64 - len(ids))])  # one shape; what follows is not seen
            expected = alone(padded)[0, len(ids) - p.length : len(ids)]
            np.testing.assert_allclose(hidden[kind][at], expected, atol=2e-5)


@pytest.mark.parametrize("raw", [CONFIG, WINDOWED], ids=["full", "window"])
def test_gradient_reaches_ancestors_only(raw):
    _, params = decoder_of(raw)
    (tree,) = grow(random_window(np.random.default_rng(5), 3, history_is="think"))
    capacity = full_row([tree], 16)
    batch, _ = pack([[tree]], capacity, 1)
    T, P = batch.trunk.id_BxL.shape[1], batch.live.id_BxL.shape[1]
    # A vocabulary of one embedding per slot, so that the gradient says which slot was looked at.
    slots = T + P
    wide = Decoder(read_config(raw | {"vocab_size": slots}))
    params = params | {"embedding_VxD": jax.random.normal(jax.random.key(1), (slots, 16))}
    trunk = batch.trunk.replace(id_BxL=np.arange(T)[None])
    student = batch.live.replace(id_BxL=T + np.arange(P)[None])

    def hidden(embedding):
        stem, (limbs,) = wide.apply(
            {"params": params | {"embedding_VxD": embedding}},
            trunk,
            [BranchStream(student)],
            batch.branches,
        )
        return jnp.concatenate([stem, limbs], axis=1)[0].sum(axis=-1)

    reached_QxK = np.abs(jax.jit(jax.jacobian(hidden))(params["embedding_VxD"])).sum(-1) > 1e-9
    window = read_config(raw).windows[0]
    layers = read_config(raw).layers
    reach = 10**6 if window is None else layers * (window - 1)
    stream = {
        name: np.concatenate([getattr(trunk, name)[0], getattr(student, name)[0]])
        for name in ("position_BxL", "segment_BxL", "branch_BxL")
    }
    fork = batch.branches.fork_BxJ[0][stream["branch_BxL"]]
    for q in range(slots):
        if stream["segment_BxL"][q] == 0:
            continue
        for k in range(slots):
            position_q, position_k = stream["position_BxL"][[q, k]]
            same = stream["branch_BxL"][q] == stream["branch_BxL"][k]
            ancestor = stream["segment_BxL"][k] > 0 and (
                (same and position_k <= position_q) or (k < T and position_k < fork[q])
            )
            assert reached_QxK[q, k] == (ancestor and position_q - position_k <= reach), (q, k)


METHOD = method_of(config.default())


def seen_by(decoder, params, batch, sharing="tree"):
    forward = scoring.FORWARD[sharing]
    return scoring.look(forward, decoder, {"policy": params}, batch, METHOD.sources)


def loss_of(decoder, sharing, batch, params):
    seen = seen_by(decoder, params, batch, sharing)
    loss, _ = METHOD.loss(METHOD.quantities(seen, batch.replies), batch.replies)
    return loss.total / loss.count


@pytest.mark.parametrize(
    "raw, history_is, attention",
    [
        (CONFIG, "think", "xla"),
        (WINDOWED, "same", "xla"),
        pytest.param(CONFIG, "think", "pallas", marks=pytest.mark.slow),
    ],
)
def test_one_pass_and_two_passes_have_the_same_loss_and_gradient(raw, history_is, attention):
    decoder, params = decoder_of(raw, "full", attention)
    results = []
    for sharing in ("tree", "none"):
        _, batch, _ = batch_of(0, history_is, sharing)
        step = jax.value_and_grad(functools.partial(loss_of, decoder, sharing, batch))
        results.append(jax.jit(step)(params))
    (loss_tree, gradient_tree), (loss_none, gradient_none) = results
    np.testing.assert_allclose(loss_tree, loss_none, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient_tree), jax.tree.leaves(gradient_none), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_models_that_are_not_trained_have_no_gradient():
    """Neither through what they see nor through their heads."""
    decoder, params = decoder_of(CONFIG)
    _, batch, _ = batch_of(0, "think")
    sources = [scoring.Source(name, PLAIN) for name in ("policy", "ema")]

    def total(models):
        seen = scoring.look(scoring.one_pass, decoder, models, batch, sources)
        return sum(one.hidden_BxRxD.sum() + one.head_DxV.sum() for one in seen.values())

    gradients = jax.jit(jax.grad(total))({"policy": params, "ema": params})
    moved = {n: [(g != 0).any() for g in jax.tree.leaves(gradients[n])] for n in gradients}
    assert all(moved["policy"]) and not any(moved["ema"])


@pytest.mark.parametrize("sharing", ["tree", "none"])
def test_a_frozen_view_has_no_gradient(sharing):
    """Already as it is computed, whatever is done with it afterwards."""
    decoder, params = decoder_of(CONFIG)
    _, batch, _ = batch_of(0, "think", sharing)

    def total(params, view):
        return scoring.FORWARD[sharing](decoder, params, batch, VIEWS)[view].sum()

    of_view = {v: jax.jit(jax.grad(functools.partial(total, view=v)))(params) for v in VIEWS}
    moved = {v: any((g != 0).any() for g in jax.tree.leaves(of_view[v])) for v in VIEWS}
    assert moved == {PLAIN: True, HINDSIGHT: False}


def test_no_gradient_through_the_teacher():
    """The gradient is that of the student's log-probabilities under a constant signal."""
    decoder, params = decoder_of(CONFIG)
    _, batch, _ = batch_of(0, "think")
    weight = batch.replies.weight_BxR

    def logps(params):
        seen = seen_by(decoder, params, batch)
        found = scoring.score(seen, METHOD.roles, batch.replies.target_BxR, METHOD.want)
        return found["logp_student"], found["logp_teacher"]

    student, teacher = jax.jit(logps)(params)
    signal = np.where(weight > 0, teacher - student, 0)
    count = objectives.total_weight(batch.replies)
    by_hand = jax.jit(jax.grad(lambda p: -(weight * signal * logps(p)[0]).sum() / count))(params)
    gradient = jax.jit(jax.grad(functools.partial(loss_of, decoder, "tree", batch)))(params)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(by_hand), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    "history_is, remat",
    [
        ("think", "none"),
        ("same", "full"),
        pytest.param("think", "full", marks=pytest.mark.slow),
        pytest.param("same", "none", marks=pytest.mark.slow),
    ],
)
def test_teacher_branches_cost_one_forward(remat, history_is):
    """Whatever an objective does with the teacher's log-probabilities: here it even adds them to
    the loss as they are, without a stop-gradient of its own."""
    decoder, params = decoder_of(CONFIG, remat)
    _, batch, _ = batch_of(0, history_is)

    student = Source("policy", PLAIN)

    def total(seen, roles):
        want = {role: logp(role) for role in roles}
        found = scoring.score(seen, roles, batch.replies.target_BxR, want, chunk=16)
        return sum((logps * batch.replies.weight_BxR).sum() ** 2 for logps in found.values())

    def both(params):
        return total(seen_by(decoder, params, batch), METHOD.roles)

    def student_alone(params):
        branches = [BranchStream(batch.live)] if history_is == "think" else []
        stem, limbs = decoder.apply({"params": params}, batch.trunk, branches, batch.branches)
        hidden = jnp.concatenate([stem, *limbs], axis=1)
        index = batch.replies.predictor[PLAIN][:, :, None]
        seen = Seen(jnp.take_along_axis(hidden, index, axis=1), head_DxV(params))
        return total({student: seen}, {"student": METHOD.roles["student"]})

    steps = [flops.count(jax.value_and_grad(f), params) for f in (both, student_alone)]
    forward = flops.count(both, params) - flops.count(student_alone, params)
    assert forward > 0
    assert steps[0] - steps[1] == forward


def test_padding_rows_and_segments_are_not_seen():
    decoder, params = decoder_of(CONFIG)
    _, batch, _ = batch_of(0, "think")
    _, taller, _ = batch_of(0, "think", height=batch.trunk.id_BxL.shape[0] + 2)
    noise = np.where(batch.trunk.segment_BxL == 0, 7, batch.trunk.id_BxL)
    noisy = batch.replace(trunk=batch.trunk.replace(id_BxL=noise))
    compute = jax.jit(lambda batch: loss_of(decoder, "tree", batch, params))
    losses = [compute(b) for b in (batch, taller, noisy)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
    assert np.isfinite(losses[0])
