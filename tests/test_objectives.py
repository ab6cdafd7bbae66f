"""Objectives, piece by piece: what they make of log-probabilities and of logits, against numpy."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import config, divergences, objectives
from interact_jax.logits import Logits
from interact_jax.objectives import terms_of, total_of, total_weight
from tests.snippets import entry, python_blocks
from tests.trees import example, pack_windows, random_pairs, random_window

pytestmark = pytest.mark.compiled_quickly

IGNORED = 1
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def settings_of(name, **changes):
    settings = config.default().objective
    settings.name = name
    for key, value in changes.items():
        settings[key] = value
    return settings


def value_and_gradient(settings, quantities, replies, by="logp_student"):
    """(loss, shown means, its gradient by one quantity): the mean over examples."""
    terms = terms_of(settings)
    assert {name for term in terms for name in term.want} == quantities.keys()

    def mean(one_BxR):
        total, shown = total_of(terms, {**quantities, by: one_BxR}, replies)
        return total.mean(), {name: found.mean() for name, found in shown.items()}

    step = jax.jit(jax.value_and_grad(mean, has_aux=True))
    (loss, shown), gradient = step(jnp.asarray(quantities[by]))
    assert shown.keys() == {name for term in terms for name in term.shown}
    return float(loss), {k: float(v) for k, v in shown.items()}, np.asarray(gradient)


def random_logps(rng, replies, padding=7.0):
    """Log-probabilities [B, R]; nothing looks at padding, and in `known` it is NaN."""
    logps = rng.uniform(-4, -0.1, replies.target_BxR.shape).astype(np.float32)
    return np.where(replies.example_BxR >= 0, logps, np.float32(padding))


def with_known(replies, **logps):
    """Replies with log-probabilities from elsewhere, as they are packed: NaN in padding."""
    there = replies.example_BxR >= 0
    known = {name: np.where(there, x, np.float32(np.nan)) for name, x in logps.items()}
    return dataclasses.replace(replies, known=known)


def counted(placed, replies):
    """Of every example, by id: (row, its counted tokens)."""
    found = {}
    for p in placed:
        tokens = np.arange(p.start, p.start + p.length)
        found[p.id] = p.row, tokens[replies.weight_BxR[p.row, tokens] > 0]
    return found


def scattered(per_example, at, like):
    """[B, R] with the values of the examples' counted tokens, 0 elsewhere."""
    full = np.zeros(like.shape)
    for name, values in per_example.items():
        full[at[name]] = values
    return full


# -------------------------------------------------------------------------- sums over the replies


@pytest.fixture(scope="module")
def mixed():
    """(replies, placed) of interactions and of pairs, those of "d" worth half, in several rows."""
    rng = np.random.default_rng(0)
    windows = [random_window(rng, 3, name="a"), random_pairs(rng, 3, name="b")]
    windows += [random_window(rng, 2, name="c"), random_pairs(rng, 2, name="d", weight=0.5)]
    batch, placed = pack_windows(windows, 32, ignore_first=IGNORED, factors={"b": 0.25})
    assert batch.replies.target_BxR.shape[0] >= 3  # one of them is empty
    return batch.replies, placed


SHARES = {"a": 1.0, "b": 0.25 / 2, "c": 1.0, "d": 0.5 / 2}  # of an example


def test_weights_of_an_example_sum_to_its_share_after_the_ignored_tokens(mixed):
    replies, placed = mixed
    for p in placed:
        weight = replies.weight_BxR[p.row, p.start : p.start + p.length]
        assert (weight[:IGNORED] == 0).all() and len(set(weight[IGNORED:])) == 1
        np.testing.assert_allclose(weight.sum(), SHARES[p.id[0]], rtol=1e-6)
        example = replies.example_BxR[p.row, p.start]
        np.testing.assert_allclose(replies.share_BxI[p.row, example], SHARES[p.id[0]])
    assert (replies.weight_BxR[replies.example_BxR < 0] == 0).all()


def test_a_pair_counts_as_one_interaction_does(mixed):
    """5 interactions, 3 pairs worth a quarter, 2 pairs worth half."""
    assert float(total_weight(mixed[0])) == 5 + 3 / 4 + 2 / 2


def test_interactions_pairs_and_counted_tokens_are_counted(mixed):
    replies, placed = mixed
    found = {name: int(n) for name, n in objectives.counts_in(replies).items()}
    tokens = sum(max(0, p.length - IGNORED) for p in placed)
    assert found == {"interactions": 5 + 3 + 2, "reply_tokens": tokens}


def test_sums_over_examples_and_over_units_are_those_of_a_loop(mixed):
    replies, placed = mixed
    rng = np.random.default_rng(1)
    per_token = random_logps(rng, replies)
    every = np.asarray(objectives.sum_over_example(jnp.asarray(per_token), replies))
    some = np.asarray(objectives.sum_over_example(jnp.asarray(per_token), replies, counted=True))
    of_unit = np.asarray(objectives.sum_over_unit(jnp.asarray(every), replies))
    back = np.asarray(objectives.to_tokens(jnp.asarray(every), replies))
    units = {}
    for p in placed:
        tokens = slice(p.start, p.start + p.length)
        values = per_token[p.row, tokens].astype(np.float64)
        number = replies.example_BxR[p.row, p.start]
        np.testing.assert_allclose(every[p.row, number], values.sum(), **CLOSE)
        np.testing.assert_allclose(some[p.row, number], values[IGNORED:].sum(), **CLOSE)
        assert (back[p.row, tokens] == every[p.row, number]).all()
        unit = p.row, int(replies.unit_BxI[p.row, number])
        units.setdefault(unit, []).append((p.id, values.sum()))
    for unit, members in units.items():
        assert len({name.rstrip("+-") for name, _ in members}) == 1
        np.testing.assert_allclose(of_unit[unit], sum(value for _, value in members), **CLOSE)
    assert len(units) == 5 + 3 + 2
    np.testing.assert_allclose(of_unit.sum(), every.sum(), rtol=1e-5)


# ------------------------------------------------------------------------------------------- sdpo


@pytest.fixture(scope="module")
def sampled():
    """(replies, placed) of interactions; a sampler's log-probabilities of some are known."""
    rng = np.random.default_rng(2)
    windows = [random_window(rng, n, name=f"c{n}") for n in (1, 4, 3)]
    for window in windows[1:]:
        for (e,) in window[1:]:
            logps = rng.uniform(-4, -0.1, len(e.target.y)).astype(np.float32)
            e.target.known["sampler"] = logps
    batch, placed = pack_windows(windows, ignore_first=IGNORED, known={"sampler"})
    known = batch.replies.known["sampler"]
    there = batch.replies.example_BxR >= 0
    assert 0 < np.isfinite(known[there]).sum() < there.sum()
    return batch.replies, placed


def sdpo_by_hand(replies, placed, student, teacher, ratio_to=None, **s):
    """(loss, gradient by logp_student) of `sdpo`, written out example by example."""
    at, count = counted(placed, replies), len(placed)
    loss, gradients = 0.0, {}
    for name, place in at.items():
        p, t = student[place].astype(np.float64), teacher[place].astype(np.float64)
        signal = t - p
        if s.get("centred"):
            signal = signal - signal.mean() if len(signal) else signal
        signal = np.clip(signal, -s.get("signal_clip", np.inf), s.get("signal_clip", np.inf))
        if "importance" in s:
            old = replies.known["sampler"][place].astype(np.float64)
            ratio = np.where(np.isnan(old), 1, np.exp(p - old))
            signal = signal * np.where(ratio > s["importance"], s["importance"], ratio)
        terms, slope = signal * p, signal
        if ratio_to is not None:
            old = ratio_to[place].astype(np.float64)
            ratio = np.where(np.isnan(old), 1, np.exp(p - old))
            clip = s["ratio_clip"]
            binds = ((signal > 0) & (ratio > 1 + clip)) | ((signal < 0) & (ratio < 1 - clip))
            terms = np.where(binds, np.clip(ratio, 1 - clip, 1 + clip), ratio) * signal
            slope = np.where(binds, 0, ratio * signal)
        if len(terms):
            loss -= terms.mean() / count
            gradients[name] = -slope / len(terms) / count
    return loss, scattered(gradients, at, student)


def check_sdpo(sampled, changes, ratio_to=None, **more):
    replies, placed = sampled
    rng = np.random.default_rng(3)
    teacher, student = random_logps(rng, replies), random_logps(rng, replies)
    settings = settings_of("sdpo", **changes)
    quantities = {"logp_student": student, "logp_teacher": teacher, **more}
    found, shown, gradient = value_and_gradient(settings, quantities, replies)
    loss, by_student = sdpo_by_hand(replies, placed, student, teacher, ratio_to, **changes)
    np.testing.assert_allclose(found, loss, **CLOSE)
    np.testing.assert_allclose(gradient, by_student, **CLOSE)
    *_, by_teacher = value_and_gradient(settings, quantities, replies, by="logp_teacher")
    assert (by_teacher == 0).all()
    return student, shown


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"centred": True},
        {"signal_clip": 0.7},
        {"centred": True, "signal_clip": 0.7},
        {"importance": 1.5},
        {"importance": 0.5, "signal_clip": 2.0},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_variants_of_the_signal(sampled, changes):
    """Centred over the counted tokens of a reply; then clipped; then weighted by what student and
    sampler say of the token, 1 where the sampler's is not known. None of it is differentiated."""
    check_sdpo(sampled, changes)


def test_a_centred_signal_has_mean_zero_and_what_is_shown_is_not_centred(sampled):
    replies, _ = sampled
    student = random_logps(np.random.default_rng(3), replies)
    quantities = {"logp_student": student, "logp_teacher": student + 3}
    settings = settings_of("sdpo", centred=True)
    loss, shown, gradient = value_and_gradient(settings, quantities, replies)
    assert abs(loss) < 1e-6 and abs(gradient).max() < 1e-6
    assert shown["signal_mean"] == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("ratio_clip", [0.2, 0.9])
def test_the_clipped_ratio_to_the_sampler(sampled, ratio_clip):
    """As in PPO: no gradient where the ratio is beyond the clip on the side that the signal pushes
    to, the full one on the other; a token whose sampler is not known has the ratio 1."""
    replies, _ = sampled
    changes = {"ratio": "sampler", "ratio_clip": ratio_clip}
    check_sdpo(sampled, changes, ratio_to=replies.known["sampler"])


def test_the_clipped_ratio_to_an_older_policy(sampled):
    replies, _ = sampled
    old = random_logps(np.random.default_rng(4), replies)
    changes = {"ratio": "trainer", "ratio_clip": 0.3}
    student, shown = check_sdpo(sampled, changes, old, logp_old=old)
    ratio = np.exp(student - old)[replies.weight_BxR > 0]
    outside = (ratio < 0.7) | (ratio > 1.3)
    assert 0 < outside.mean() < 1
    assert shown["ratio_clipped"] == pytest.approx(outside.mean(), rel=1e-6)


@pytest.mark.parametrize("ratio", ["sampler", "trainer"])
@pytest.mark.parametrize(
    "signal, log_ratio, moves",
    [
        (+1, +0.5, False),
        (+1, -0.5, True),
        (-1, +0.5, True),
        (-1, -0.5, False),
        (+1, +0.1, True),
        (-1, -0.1, True),
    ],
)
def test_the_clip_stops_a_token_that_has_gone_far_enough(sampled, ratio, signal, log_ratio, moves):
    replies, _ = sampled
    old = random_logps(np.random.default_rng(5), replies)
    if ratio == "sampler":
        replies = with_known(replies, sampler=old)
    student = old + np.float32(log_ratio)
    quantities = {"logp_student": student, "logp_teacher": student + np.float32(signal)}
    if ratio == "trainer":
        quantities["logp_old"] = old
    settings = settings_of("sdpo", ratio=ratio, ratio_clip=0.2)
    _, shown, gradient = value_and_gradient(settings, quantities, replies)
    weight = replies.weight_BxR / total_weight(replies)
    expected = -signal * np.exp(log_ratio) * weight if moves else np.zeros_like(weight)
    np.testing.assert_allclose(gradient, expected, **CLOSE)
    assert shown["ratio_clipped"] == (abs(log_ratio) > 0.2)


@pytest.mark.parametrize("signal", [1, -1])
def test_a_ratio_too_large_for_float32_is_no_nan(sampled, signal):
    """Samplers write -9999 for what they hold for impossible."""
    replies, _ = sampled
    student = random_logps(np.random.default_rng(5), replies)
    replies = with_known(replies, sampler=np.full_like(student, -9999))
    quantities = {"logp_student": student, "logp_teacher": student + np.float32(signal)}
    weight = replies.weight_BxR / total_weight(replies)
    for changes, slope in ({"ratio": "sampler"}, 0), ({"importance": 2.0}, 2 * signal):
        settings = settings_of("sdpo", **changes)
        loss, _, gradient = value_and_gradient(settings, quantities, replies)
        assert np.isfinite(loss)
        np.testing.assert_allclose(gradient, -slope * weight, **CLOSE)


def test_at_the_sampler_the_clipped_step_is_the_plain_one(sampled):
    """Its gradient; also where every log-probability of a sampler is unknown."""
    replies, _ = sampled
    student, teacher = (random_logps(np.random.default_rng(n), replies) for n in (6, 7))
    quantities = {"logp_student": student, "logp_teacher": teacher}
    *_, plain = value_and_gradient(settings_of("sdpo"), quantities, replies)
    unknown = np.full_like(student, np.nan)
    for old in (student, unknown):
        known = with_known(replies, sampler=old)
        for changes in ({"ratio": "sampler"}, {"importance": 1.0}):
            *_, found = value_and_gradient(settings_of("sdpo", **changes), quantities, known)
            np.testing.assert_allclose(found, plain, **CLOSE)


def test_what_a_variant_needs_is_what_it_asks_for():
    def of(**changes):
        (term,) = terms_of(settings_of("sdpo", **changes))
        return term.known, term.roles

    assert of() == ((), ("student", "teacher"))
    assert of(importance=2.0) == (("sampler",), ("student", "teacher"))
    assert of(ratio="sampler") == (("sampler",), ("student", "teacher"))
    assert of(ratio="trainer") == ((), ("student", "teacher", "old"))


# -------------------------------------------------------------------- over the whole vocabulary

V = 50


def logits_of(rng, replies, *roles):
    """Random logits [B, R, V] of every role."""
    lead = replies.target_BxR.shape
    return {role: 2 * rng.normal(size=(*lead, V)).astype(np.float32) for role in roles}


def means_of(settings, logits, replies):
    """(loss, shown) of logits [B, R, V] by role, as `scoring` computes what the terms want."""
    terms = terms_of(settings)
    roles = {name: Logits(jnp.asarray(x)) for name, x in logits.items()}
    quantities = {
        name: quantity(roles, jnp.asarray(replies.target_BxR))
        for term in terms
        for name, quantity in term.want.items()
    }
    total, shown = total_of(terms, quantities, replies)
    return total.mean(), {name: found.mean() for name, found in shown.items()}


def by_logits(settings, logits, replies):
    """(loss, shown, gradient by the student's logits)."""

    def mean(student):
        return means_of(settings, {**logits, "student": student}, replies)

    step = jax.jit(jax.value_and_grad(mean, has_aux=True))
    (loss, shown), gradient = step(jnp.asarray(logits["student"]))
    return float(loss), shown, np.asarray(gradient)


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize(
    "name, changes, divergence",
    [
        ("reverse_kl", {}, divergences.reverse_kl),
        ("forward_kl", {}, divergences.forward_kl),
        ("jsd", {"alpha": 0.3}, functools.partial(divergences.jsd, alpha=0.3)),
        ("top_k", {"k": 4}, functools.partial(divergences.top_k, k=4)),
        (
            "top_k",
            {"k": 4, "k_by": "teacher"},
            functools.partial(divergences.top_k, k=4, by_teacher=True),
        ),
    ],
    ids=["reverse_kl", "forward_kl", "jsd", "top_k", "top_k-by-teacher"],
)
def test_distillation_is_the_mean_divergence_of_student_and_teacher(
    mixed, name, changes, divergence
):
    """`test_divergences.py` has what the divergences are."""
    replies, placed = mixed
    logits = logits_of(np.random.default_rng(8), replies, "student", "teacher")
    loss, shown, gradient = by_logits(settings_of(name, **changes), logits, replies)
    s, t = (jnp.asarray(log_softmax(logits[role]), jnp.float32) for role in ("student", "teacher"))
    roles = (Logits(jnp.asarray(logits[role])) for role in ("student", "teacher"))
    per_token = np.asarray(divergence(*roles))
    means = [
        (SHARES[name[0]], per_token[place].mean())
        for name, place in counted(placed, replies).items()
        if len(place[1])
    ]
    count = float(total_weight(replies))
    np.testing.assert_allclose(loss, sum(w * mean for w, mean in means) / count, **CLOSE)
    assert (gradient[replies.weight_BxR == 0] == 0).all()
    assert (abs(gradient[replies.weight_BxR > 0]).max(axis=-1) > 0).all()
    target = replies.target_BxR[..., None]
    signal = np.take_along_axis(np.asarray(t - s), target, -1)[..., 0][replies.weight_BxR > 0]
    np.testing.assert_allclose(shown["signal_mean"], signal.mean(), **CLOSE)
    np.testing.assert_allclose(shown["signal_abs_mean"], abs(signal).mean(), **CLOSE)


N = 40_000


def test_the_sampled_token_gradient_is_the_reverse_kls_on_average():
    """With y_t from the student, `sdpo` is the one-sample estimate of `reverse_kl`: the mean of N
    gradients is within 5 standard errors of it in every logit, and these are small beside it."""
    rng = np.random.default_rng(9)
    student, teacher = 1.5 * rng.normal(size=(2, V)).astype(np.float32)
    y = rng.choice(V, N, p=np.exp(log_softmax(student)))
    # A reply of N tokens in which student and teacher say the same of every one.
    batch, _ = pack_windows([[[example("c_1", [0, 7, 1], [0, 7, 4, 1], y.tolist())]]])
    replies = jax.tree.map(lambda x: x[:1, :N], batch.replies)
    assert (replies.target_BxR[0] == y).all()
    logits = {
        "student": np.broadcast_to(student, (1, N, V)),
        "teacher": np.broadcast_to(teacher, (1, N, V)),
    }
    *_, sampled = by_logits(settings_of("sdpo"), logits, replies)
    *_, exact = by_logits(settings_of("reverse_kl"), logits, replies)
    each = N * sampled[0].astype(np.float64)  # [N, V]: the loss is a mean over the tokens
    exact = exact[0].sum(axis=0, dtype=np.float64)
    error = each.std(axis=0, ddof=1) / np.sqrt(N)
    assert np.linalg.norm(error) < 0.03 * np.linalg.norm(exact)
    assert (abs(each.mean(axis=0) - exact) < 5 * error).all()


# -------------------------------------------------------------------------------------- baselines


def test_sft_is_the_mean_over_examples_of_the_mean_over_tokens(mixed):
    replies, placed = mixed
    student = random_logps(np.random.default_rng(10), replies)
    loss, shown, gradient = value_and_gradient(
        settings_of("sft"), {"logp_student": student}, replies
    )
    at = counted(placed, replies)
    means = [-SHARES[name[0]] * student[place].mean() for name, place in at.items()]
    count = float(total_weight(replies))
    np.testing.assert_allclose(loss, sum(means) / count, **CLOSE)
    np.testing.assert_allclose(gradient, -replies.weight_BxR / count, **CLOSE)
    np.testing.assert_allclose(shown["logp_mean"], student[replies.weight_BxR > 0].mean(), **CLOSE)


@pytest.fixture(scope="module")
def pairs():
    """(replies, placed) of pairs of three conversations: worth 1, a half, and nothing."""
    rng = np.random.default_rng(11)
    windows = [random_pairs(rng, 3, name="a"), random_pairs(rng, 3, name="b", weight=0.5)]
    windows.append(random_pairs(rng, 1, name="c"))
    batch, placed = pack_windows(windows, ignore_first=IGNORED, factors={"c": 0.0})
    lengths = {p.id: p.length for p in placed}
    assert any(lengths[f"a_{n}+"] != lengths[f"a_{n}-"] for n in range(3))
    return batch.replies, placed


PAIR_WEIGHTS = {"a": 1.0, "b": 0.5}


def dpo_by_hand(replies, placed, student, initial, beta):
    """(loss, gradient by logp_student, margins) of `dpo`, written out pair by pair."""
    at = counted(placed, replies)
    count = sum(PAIR_WEIGHTS.get(p.id[0], 0) for p in placed) / 2
    loss, gradients, margins = 0.0, {}, []
    for name in at:
        if not name.endswith("+") or name[0] not in PAIR_WEIGHTS:
            continue
        better, worse = name, f"{name[:-1]}-"
        gain = {
            side: (student[at[side]].astype(np.float64) - initial[at[side]]).sum()
            for side in (better, worse)
        }
        margin = beta * (gain[better] - gain[worse])
        weight = PAIR_WEIGHTS[name[0]] / count
        loss += weight * np.log1p(np.exp(-margin))
        slope = weight * beta / (1 + np.exp(margin))
        gradients[better] = np.full(len(at[better][1]), -slope)
        gradients[worse] = np.full(len(at[worse][1]), slope)
        margins.append(margin)
    return loss, scattered(gradients, at, student), np.array(margins)


@pytest.mark.parametrize("reference", ["kept", "step"])
def test_dpo_is_its_formula_over_sums_of_the_counted_tokens(pairs, reference):
    """Pairs count by their weight, replies by their length; margins are shown per pair."""
    replies, placed = pairs
    rng = np.random.default_rng(12)
    student, initial = random_logps(rng, replies), random_logps(rng, replies)
    quantities = {"logp_student": student}
    if reference == "kept":
        replies = with_known(replies, initial=initial)
    else:
        quantities["logp_initial"] = initial
    settings = settings_of("dpo", beta=0.3, reference=reference)
    found, shown, gradient = value_and_gradient(settings, quantities, replies)
    loss, by_student, margins = dpo_by_hand(replies, placed, student, initial, 0.3)
    assert len(margins) == 6 and 0 < (margins > 0).sum() < 6
    np.testing.assert_allclose(found, loss, **CLOSE)
    np.testing.assert_allclose(gradient, by_student, **CLOSE)
    np.testing.assert_allclose(shown["margin"], margins.mean(), **CLOSE)
    np.testing.assert_allclose(shown["right"], (margins > 0).mean(), **CLOSE)


def test_dpo_begins_at_log_2_and_is_finite_however_far_a_pair_is(pairs):
    replies, _ = pairs
    initial = random_logps(np.random.default_rng(13), replies)
    known = with_known(replies, initial=initial)
    loss, shown, _ = value_and_gradient(settings_of("dpo"), {"logp_student": initial}, known)
    assert loss == pytest.approx(np.log(2), rel=1e-6)
    assert (shown["margin"], shown["right"]) == (0, 0)
    settings = settings_of("dpo", beta=1000.0)
    student = random_logps(np.random.default_rng(14), replies)
    loss, _, gradient = value_and_gradient(settings, {"logp_student": student}, known)
    assert np.isfinite(loss) and np.isfinite(gradient).all() and loss > 100


def test_the_loss_of_few_examples_is_a_mean_all_the_same():
    """A batch of one pair with half a weight shows the loss of that pair, not half of it."""
    window = random_pairs(np.random.default_rng(15), 1)
    found = []
    for factor in (1.0, 0.5, 0.125):
        batch, _ = pack_windows([window], known={"initial"}, factors={"c": factor})
        replies = batch.replies
        student, initial = (random_logps(np.random.default_rng(n), replies) for n in (16, 17))
        replies = with_known(replies, initial=initial)
        assert float(total_weight(replies)) == factor
        found.append(value_and_gradient(settings_of("dpo"), {"logp_student": student}, replies))
    for loss, shown, gradient in found[1:]:
        np.testing.assert_allclose(loss, found[0][0], **CLOSE)
        np.testing.assert_allclose(gradient, found[0][2], **CLOSE)
        assert shown == found[0][1]


# ------------------------------------------------------------------------------- terms for any sum


def test_the_distance_from_the_initial_model_counts_the_tokens_of_both_replies_of_a_pair(pairs):
    """dpo + c KL: of every pair, the mean over its two replies of the mean over their tokens."""
    replies, placed = pairs
    logits = logits_of(np.random.default_rng(18), replies, "student", "initial")
    losses, gradients = {}, {}
    for c in (0.0, 0.2):
        settings = settings_of("dpo", reference="step", kl_initial=c)
        losses[c], shown, gradients[c] = by_logits(settings, logits, replies)
    s, s0 = (log_softmax(logits[role]) for role in ("student", "initial"))
    kl = (np.exp(s) * (s - s0)).sum(-1)
    at, mean, count = counted(placed, replies), 0.0, 0.0
    for name, place in at.items():
        weight = PAIR_WEIGHTS.get(name[0], 0) / 2
        if weight:
            mean, count = mean + weight * kl[place].mean(), count + weight
    np.testing.assert_allclose(losses[0.2] - losses[0.0], 0.2 * mean / count, **CLOSE)
    counts = replies.weight_BxR > 0
    np.testing.assert_allclose(shown["kl_initial"], kl[counts].mean(), **CLOSE)
    g = np.exp(s) * (s - s0 - kl[..., None])
    added = 0.2 * np.where(counts, replies.weight_BxR, 0)[..., None] * g / count
    np.testing.assert_allclose(gradients[0.2] - gradients[0.0], added, **CLOSE)


def test_every_objective_may_have_that_term_added(mixed):
    replies, _ = mixed
    replies = with_known(replies, initial=np.zeros_like(replies.weight_BxR))
    logits = logits_of(np.random.default_rng(19), replies, "student", "teacher", "initial")
    s, s0 = (log_softmax(logits[role]) for role in ("student", "initial"))
    kl = (np.exp(s) * (s - s0)).sum(-1)
    added = 0.5 * (replies.weight_BxR * kl).sum() / total_weight(replies)
    for name in objectives.OBJECTIVES:
        without, _ = means_of(settings_of(name), logits, replies)
        found, shown = means_of(settings_of(name, kl_initial=0.5), logits, replies)
        np.testing.assert_allclose(found - without, added, rtol=1e-4, err_msg=name)
        assert "kl_initial" in shown


def test_the_objective_that_the_documentation_adds(sampled, monkeypatch):
    """Half the squared signal: its gradient by the student is student - teacher."""
    names = dict(vars(objectives))
    exec(python_blocks("objectives.md")[0], names)
    monkeypatch.setitem(
        objectives.OBJECTIVES, "squared", eval(entry("objectives.md", "squared"), names)
    )
    replies, placed = sampled
    rng = np.random.default_rng(9)
    student, teacher = random_logps(rng, replies), random_logps(rng, replies)
    quantities = {"logp_student": student, "logp_teacher": teacher}
    loss, shown, gradient = value_and_gradient(settings_of("squared"), quantities, replies)
    assert set(shown) == {"signal_mean", "signal_abs_mean"}
    losses, slopes = [], {}
    for name, place in counted(placed, replies).items():
        difference = (student[place] - teacher[place]).astype(np.float64)
        if len(difference):
            losses.append((difference**2 / 2).mean() / len(placed))
            slopes[name] = difference / len(difference) / len(placed)
    np.testing.assert_allclose(loss, sum(losses), **CLOSE)
    at = counted(placed, replies)
    np.testing.assert_allclose(gradient, scattered(slopes, at, student), **CLOSE)
