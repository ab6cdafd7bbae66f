"""Teachers: how models move beside the policy, and every teacher with every objective."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import bench, config, run_state, scoring, train
from interact_jax.data.examples import PREFERRED
from interact_jax.data.pack import pack
from interact_jax.data.recipes import HINDSIGHT, PLAIN, RECIPES
from interact_jax.data.tree import GROW, Size
from interact_jax.logits import logp
from interact_jax.methods import method_of
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import read_config
from interact_jax.objectives import OBJECTIVES
from interact_jax.optim import make_optimiser
from interact_jax.schema import Replies, Sum, TokenStream
from interact_jax.scoring import Role, Seen, Source, score
from interact_jax.teachers import INITIAL, OLD, POLICY, RULES, TEACHER, TEACHERS, roles_of
from tests.models.test_sight import CONFIG

pytestmark = pytest.mark.compiled_quickly

LR = 0.05


def settings(**changes):
    """All settings, plain SGD; `objective_k=4` sets objective.k."""
    cfg = config.default()
    cfg.optim.name, cfg.optim.clip_norm = "sgd", float("inf")
    for name, value in changes.items():
        group, _, key = name.partition("_")
        cfg[group][key] = value
    return cfg


# ------------------------------------------------------------------------------------------ rules


def some_params(seed, dtype):
    rng = np.random.default_rng(seed)
    shapes = {"w_DxF": (8, 5), "norm_D": (8,)}
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def moved(rules, dtype, steps, spoilt=()):
    """The models of every step, the first before any, of a policy that gradients push about; those
    of the `spoilt` steps are not finite."""
    optimiser = make_optimiser(settings().optim)
    state = run_state.new_state(some_params(0, dtype), optimiser, rules)
    move = jax.jit(
        functools.partial(
            train.update,
            optimiser=optimiser,
            lr=lambda step: LR,
            clip_norm=float("inf"),
            rules=rules,
        )
    )
    found = [state.all_params()]
    for step in range(1, steps + 1):
        gradients = some_params(step, jnp.float32)
        if step in spoilt:
            gradients = jax.tree.map(lambda g: g * jnp.nan, gradients)
        loss = Sum(jnp.float32(1), jnp.float32(1))
        counted = {"interactions": 1, "reply_tokens": 1}
        state, _ = move(state, (gradients, {"loss": loss}, counted))
        found.append(state.all_params())
    return found


def same(one, other):
    """Whether two models are equal bit for bit."""
    return all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ema_is_the_average_of_the_policy_after_every_step_in_float32(dtype):
    """teacher <- (1 - rate) teacher + rate policy, from the first policy on. In bfloat16, a 50th of
    a step would be lost."""
    rate, steps = 0.02, 6
    rules = {TEACHER: RULES[TEACHER](settings(teacher_rate=rate))}
    found = moved(rules, dtype, steps)
    for name in found[0][POLICY]:
        expected = np.asarray(found[0][POLICY][name], np.float64)
        for models in found:
            assert models[POLICY][name].dtype == dtype
            assert models[TEACHER][name].dtype == jnp.float32
            policy = np.asarray(models[POLICY][name], np.float64)
            expected = (1 - rate) * expected + rate * policy
            np.testing.assert_allclose(models[TEACHER][name], expected, rtol=1e-6, atol=1e-6)
        assert abs(expected - policy).max() > 0.02  # it stays behind,
        assert abs(expected - np.asarray(found[0][POLICY][name], np.float64)).max() > 0.001


@pytest.mark.parametrize("every", [1, 3])
def test_the_older_policy_is_a_copy_made_after_so_many_steps(every):
    rules = {OLD: RULES[OLD](settings(objective_old_every=every))}
    found = moved(rules, jnp.float32, 7)
    for step, models in enumerate(found):
        copied = step - step % every
        assert same(models[OLD], found[copied][POLICY]), step
        assert copied == step or not same(models[OLD], models[POLICY])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_initial_model_never_moves(dtype):
    rules = {INITIAL: RULES[INITIAL](settings())}
    assert rules[INITIAL].fixed and not RULES[TEACHER](settings()).fixed
    found = moved(rules, dtype, 4)
    for models in found:
        assert same(models[INITIAL], found[0][POLICY])
        assert {x.dtype for x in jax.tree.leaves(models[INITIAL])} == {jnp.dtype(dtype)}
    assert not same(found[-1][POLICY], found[0][POLICY])


def test_no_model_follows_a_step_that_is_skipped():
    cfg = settings(objective_old_every=1)
    found = moved({name: rule(cfg) for name, rule in RULES.items()}, jnp.float32, 3, spoilt={2})
    for name in (POLICY, *RULES):
        assert same(found[2][name], found[1][name])
    for name in (POLICY, TEACHER, OLD):
        assert not same(found[3][name], found[2][name])


# ------------------------------------------------------------------------------------------ roles


@pytest.mark.parametrize(
    "name, source",
    [
        ("self", Source(POLICY, HINDSIGHT)),
        ("ema", Source(TEACHER, HINDSIGHT)),
        ("frozen", Source(INITIAL, HINDSIGHT)),
    ],
)
def test_a_teacher_is_some_models_view_with_hindsight(name, source):
    assert roles_of(settings(teacher_name=name))["teacher"] == Role((source,))


def some_seen(*sources):
    """What sources see of 2 x 5 tokens, each with a head of its own."""
    rng = np.random.default_rng(0)
    B, R, D, V = 2, 5, 6, 11
    hidden = rng.normal(size=(len(sources), B, R, D)).astype(np.float32)
    head = rng.normal(size=(len(sources), D, V)).astype(np.float32)
    return {
        s: Seen(*map(jnp.asarray, pair)) for s, *pair in zip(sources, hidden, head, strict=True)
    }


def check_teacher(seen, expected, **changes):
    """The teacher of these settings has the expected log-probabilities [B, R, V]."""
    roles = {"teacher": roles_of(settings(**changes))["teacher"]}
    for v in range(expected.shape[-1]):
        target = jnp.full(expected.shape[:2], v)
        found = score(seen, roles, target, {"teacher": logp("teacher")})["teacher"]
        np.testing.assert_allclose(found, expected[..., v], atol=2e-6)


def logps_of(seen):
    return (
        log_softmax(np.asarray(s.hidden_BxRxD, np.float64) @ np.asarray(s.head_DxV, np.float64))
        for s in seen.values()
    )


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_the_trust_region_is_the_log_softmax_of_the_mix(mix):
    """Of log-probabilities or of logits: they differ by a constant, which goes."""
    seen = some_seen(Source(POLICY, HINDSIGHT), Source(INITIAL, HINDSIGHT))
    live, initial = logps_of(seen)
    expected = log_softmax((1 - mix) * live + mix * initial)
    check_teacher(seen, expected, teacher_name="trust_region", teacher_mix=mix)


def seen_by_the_frozen_signal():
    """And the policy, the initial model with the follow-up, and without it, as
    log-probabilities."""
    seen = some_seen(Source(POLICY, PLAIN), Source(INITIAL, HINDSIGHT), Source(INITIAL, PLAIN))
    return seen, *logps_of(seen)


def test_the_frozen_signal_is_added_to_the_policy():
    seen, policy, with_o, without_o = seen_by_the_frozen_signal()
    expected = log_softmax(policy + with_o - without_o)
    check_teacher(seen, expected, teacher_name="frozen_signal", teacher_reach=float("inf"))


@pytest.mark.parametrize("reach", [0.5, 1.0, 3.0, float("inf")])
def test_a_follow_up_that_changes_nothing_leaves_the_policy(reach):
    seen, policy, _, _ = seen_by_the_frozen_signal()
    read, unread = Source(INITIAL, HINDSIGHT), Source(INITIAL, PLAIN)
    unmoved = seen | {read: seen[unread]}
    check_teacher(unmoved, policy, teacher_name="frozen_signal", teacher_reach=reach)


@pytest.mark.parametrize("reach", [0.5, 2.0])
def test_the_frozen_signal_ends_where_the_policy_has_moved_far_enough(reach):
    seen, policy, with_o, without_o = seen_by_the_frozen_signal()
    change, moved = with_o - without_o, policy - without_o
    added, ends = np.zeros_like(change), {"whole": 0, "rest": 0, "none": 0}
    for i in np.ndindex(change.shape):
        rest = (reach * change[i] - moved[i]) * np.sign(change[i])  # along the change
        added[i] = np.sign(change[i]) * min(max(rest, 0), abs(change[i]))
        ends["none" if rest <= 0 else "rest" if rest < abs(change[i]) else "whole"] += 1
    assert min(ends.values()) > 5
    expected = log_softmax(policy + added)
    check_teacher(seen, expected, teacher_name="frozen_signal", teacher_reach=reach)


def test_a_policy_that_has_learned_the_frozen_signal_is_its_own_teacher():
    seen, _, with_o, _ = seen_by_the_frozen_signal()
    plain, read, unread = seen
    learned = {plain: seen[read], read: seen[read], unread: seen[unread]}
    check_teacher(learned, with_o, teacher_name="frozen_signal", teacher_reach=1.0)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


# ------------------------------------------------------------------- every teacher and objective

MODELS = {"self": set(), "ema": {TEACHER}}
MODELS |= {name: {INITIAL} for name in ("frozen", "trust_region", "frozen_signal")}
DISTIL = [name for name, objective in OBJECTIVES.items() if objective.recipes == ("hindsight",)]
BASELINES = [name for name in OBJECTIVES if name not in DISTIL]


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_has_the_models_that_its_teacher_and_its_objective_need(objective, teacher):
    """And no others: without hindsight nobody asks the teacher."""
    method = method_of(settings(objective_name=objective, teacher_name=teacher))
    needed = MODELS[teacher] if objective in DISTIL else set()
    assert method.rules.keys() == needed
    assert ("teacher" in method.roles) == (objective in DISTIL)
    assert {source.model for source in method.sources} == {POLICY, *needed}
    with_kl = settings(objective_name=objective, teacher_name=teacher, objective_kl_initial=0.1)
    assert method_of(with_kl).rules.keys() == needed | {INITIAL}


DECODER = Decoder(read_config(CONFIG | {"num_hidden_layers": 2}), attention="dense", remat="none")
QUICK = {"xla_backend_optimization_level": 0}  # compiling is what takes the time here
INTERACTIONS = 6


@functools.cache
def params_of(model):
    """Every model has parameters of its own, so that none is taken for another."""
    return jax.jit(DECODER.fresh_params)((POLICY, TEACHER, INITIAL, OLD).index(model))


def windows_of(recipe):
    """The units of two conversations whose replies look different in the history, of random ids and
    of unequal length: the histories go on with all of a reply."""
    dialogue = bench.Dialogue(
        turns=INTERACTIONS // 2,
        user=7,
        reply=7,
        followup=4,
        recipe=recipe,
        student_branches=True,
    )
    rng = np.random.default_rng(0)

    def cut(e):
        target = dataclasses.replace(e.target, y=e.target.y[: rng.integers(2, 8)])
        return dataclasses.replace(e, target=target)

    windows = [dialogue.window(rng, DECODER.config.vocab_size, name) for name in ("a", "b")]
    return [[[cut(e) for e in unit] for unit in window] for window in windows]


def batch_of(recipe, sharing, **how):
    """One row with the trees of these conversations, grown in this way."""
    frozen = RECIPES[recipe].frozen
    trees = [tree for window in windows_of(recipe) for tree in GROW[sharing](window, frozen)]
    whole = sum((tree.size for tree in trees), Size(0, 0, 0, 0, 0))
    return pack([trees], whole, 1, **how)


def sums_of(cfg, batch, sharing):
    """What `train.differentiate` gives for a batch, jitted, every model with parameters of its own;
    the gradient is that of the mean."""
    method = method_of(cfg)
    one = functools.partial(
        train.differentiate, decoder=DECODER, forward=scoring.FORWARD[sharing], method=method
    )
    models = {name: params_of(name) for name in (POLICY, *method.rules)}
    return jax.jit(one, compiler_options=QUICK)(models, batch)


@functools.cache
def sums_under(sharing, recipe, **changes):
    """The same under these settings, for the batch of a recipe."""
    batch, _ = batch_of(recipe, sharing, ignore_first=1)
    return sums_of(settings(**changes), batch, sharing)


@functools.cache
def step_of(names):
    """(state, `train.update`) of a run with these models beside the policy."""
    cfg = settings()
    optimiser, rules = make_optimiser(cfg.optim), {name: RULES[name](cfg) for name in names}
    state = run_state.new_state(params_of(POLICY), optimiser, rules)
    state.models.update({name: run_state.Model(params_of(name)) for name in rules})
    move = functools.partial(
        train.update,
        optimiser=optimiser,
        lr=lambda step: LR,
        clip_norm=float("inf"),
        rules=rules,
    )
    return state, jax.jit(move, compiler_options=QUICK)


def check_step(sums, **changes):
    """A step by these sums is finite, and moves what it should."""
    gradients, metrics, counted = sums
    state, update = step_of(tuple(method_of(settings(**changes)).rules))
    after, shown = update(state, (gradients, {"loss": metrics["loss"]}, counted))
    assert np.isfinite(shown["loss"]) and 0 < shown["grad_norm"] < np.inf
    assert (int(after.step), int(after.counters.bad_steps)) == (1, 0)
    assert int(after.counters.interactions) == INTERACTIONS
    for name, model in after.models.items():
        fixed = name == INITIAL or name == OLD  # an older policy is copied every 8 steps
        assert same(model.params, state.models[name].params) == fixed, name


@pytest.mark.parametrize("objective", DISTIL)
def test_nothing_is_learned_through_the_policy_in_its_teacher(objective):
    """`frozen_signal` has the student's own logits in it, as constants: the gradient is that of a
    teacher which another model has made of the same logits."""
    student, read, unread = jax.random.normal(jax.random.key(0), (3, 1, 4, 11))
    method = method_of(settings(objective_name=objective, teacher_name="frozen_signal"))
    replies = Replies(
        example_BxR=np.zeros((1, 4), int),
        target_BxR=np.arange(4)[None],
        weight_BxR=np.full((1, 4), 0.25),
        predictor={},
        known={},
        unit_BxI=np.array([[0, -1, -1, -1]]),
        side_BxI=np.zeros((1, 4), int),
        share_BxI=np.array([[1.0, 0, 0, 0]]),
    )

    def loss(student, roles, others):
        seen = {Source(POLICY, PLAIN): student, **others}
        seen = {source: Seen(x, jnp.eye(11)) for source, x in seen.items()}
        quantities = score(seen, roles, replies.target_BxR, method.want)
        return method.loss(quantities, replies)[0].total

    initial = {Source(INITIAL, HINDSIGHT): read, Source(INITIAL, PLAIN): unread}
    teacher = method.roles["teacher"].combine(student, read, unread)
    made = {Source(TEACHER, HINDSIGHT): teacher}
    roles = roles_of(settings(teacher_name="ema"))
    roles = {name: roles[name] for name in method.roles}
    found = jax.grad(loss)(student, method.roles, initial)
    np.testing.assert_allclose(found, jax.grad(loss)(student, roles, made), atol=1e-6)
    assert abs(found).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("objective", DISTIL)
def test_a_step_of_every_objective_with_every_teacher(objective, teacher):
    changes = {"objective_name": objective, "teacher_name": teacher}
    check_step(sums_under("tree", "hindsight", **changes), **changes)


# Teachers and divergences of each kind; all of them together are the slow test above.
MEANS = {"rtol": 1e-5, "atol": 1e-6}
GRADIENTS = {"rtol": 1e-5, "atol": 1e-5}


def check_same(found, expected):
    """Two sums: the same loss, metrics and gradient, per example."""
    gradients, metrics, counted = found
    gradients_too, metrics_too, counted_too = expected
    assert metrics.keys() == metrics_too.keys()
    for name, value in metrics.items():
        np.testing.assert_allclose(value.mean(), metrics_too[name].mean(), err_msg=name, **MEANS)
    assert counted == counted_too
    count = metrics["loss"].count
    assert count == metrics_too["loss"].count == INTERACTIONS
    check_gradients(gradients, jax.tree.map(lambda g: g / count, gradients_too), count)


def check_gradients(gradients, expected, count):
    """Gradients of a sum over `count` examples, and what is expected of their mean."""
    paths = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, ours), theirs in zip(paths, jax.tree.leaves(expected), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(ours / count, theirs, err_msg=name, **GRADIENTS)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"objective_name": "sdpo", "teacher_name": "self"}, marks=pytest.mark.slow),
        {"objective_name": "sdpo", "objective_ratio": "trainer", "objective_kl_initial": 0.1},
        pytest.param(
            {"objective_name": "reverse_kl", "teacher_name": "ema"}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"objective_name": "forward_kl", "teacher_name": "frozen"}, marks=pytest.mark.slow
        ),
        {"objective_name": "jsd", "teacher_name": "trust_region"},
        {"objective_name": "top_k", "teacher_name": "ema"},
        pytest.param(
            {"objective_name": "reverse_kl", "teacher_name": "frozen_signal"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_sharing_changes_nothing_of_what_is_distilled(changes):
    tree, none = (sums_under(sharing, "hindsight", **changes) for sharing in ("tree", "none"))
    check_same(tree, none)
    check_step(none, **changes)


# ------------------------------------------------------------ baselines, as sequences one by one


def alone(params, examples):
    """log pi(y_t | x, y_<t) [N, R] of each example, by the plain decoder of one sequence at a time;
    0 behind the end of y."""
    L = max(len(e.path(PLAIN)) for e in examples)
    R = max(len(e.target.y) for e in examples)
    ids, y, start, length = [], [], [], []
    for e in examples:
        path = e.path(PLAIN)
        ids.append([*path, *[0] * (L - len(path))])  # what follows is not seen
        y.append([*e.target.y, *[0] * (R - len(e.target.y))])
        start.append(len(e.contexts[PLAIN]) - 1)
        length.append(len(e.target.y))

    def one(sequence):
        id_L, y_R, start, length = sequence
        id_BxL = id_L[None]
        position_BxL, one, zero = jnp.arange(L)[None], jnp.ones_like(id_BxL), jnp.zeros_like(id_BxL)
        stream = TokenStream(id_BxL, position_BxL, segment_BxL=one, branch_BxL=zero)
        hidden_BxLxD, _ = DECODER.apply({"params": params}, stream)
        logp_LxV = jax.nn.log_softmax(hidden_BxLxD[0] @ head_DxV(params))
        at = jnp.minimum(start + jnp.arange(R), L - 1)
        return jnp.where(jnp.arange(R) < length, logp_LxV[at, y_R], 0.0)

    return jax.lax.map(one, tuple(map(jnp.array, (ids, y, start, length))))


def sft_alone(params, examples):
    """The mean over examples of the mean over tokens."""
    lengths = jnp.array([len(e.target.y) for e in examples])
    return (-alone(params, examples).sum(axis=1) / lengths).mean()


def dpo_alone(params, examples, beta=0.1):
    """The formula, over sums; pairs stand one behind the other, the preferred reply first."""
    assert [e.target.side for e in examples[::2]] == [PREFERRED] * (len(examples) // 2)
    gain = (alone(params, examples) - alone(params_of(INITIAL), examples)).sum(axis=1)
    margin = beta * (gain[::2] - gain[1::2])
    return -jnp.log(1 / (1 + jnp.exp(-margin))).mean()


@functools.cache
def by_hand(recipe):
    """(loss, gradient) of the examples of a recipe as sequences one by one."""
    examples = [e for window in windows_of(recipe) for unit in window for e in unit]
    assert len({len(e.target.y) for e in examples}) > 2
    loss = functools.partial(dpo_alone if recipe == "pairs" else sft_alone, examples=examples)
    return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)(params_of(POLICY))


@pytest.mark.parametrize(
    "recipe, objective, sharing",
    [
        pytest.param(
            *case,
            sharing,
            marks=() if sharing == "tree" or case[0] == "pairs" else pytest.mark.slow,
        )
        for case in [("replies", "sft"), ("revisions", "sft_revised"), ("pairs", "dpo")]
        for sharing in GROW
    ],
)
def test_baselines_are_those_of_separate_sequences(recipe, objective, sharing):
    """On trees or not; every token counts. A history is in the tree once; a reply that it does not
    go on with is a branch."""
    batch, _ = batch_of(recipe, sharing)
    assert sharing == "none" or batch.live.id_BxL.shape[1] > 0
    changes = {"objective_name": objective, "objective_reference": "step"}
    sums = sums_of(settings(**changes, data_recipe=recipe), batch, sharing)
    gradients, metrics, _ = sums
    loss, gradient = by_hand(recipe)
    np.testing.assert_allclose(metrics["loss"].mean(), loss, **MEANS)
    check_gradients(gradients, gradient, metrics["loss"].count)
    check_step(sums, **changes)


def test_dpo_may_keep_what_the_initial_model_says():
    batch, placed = batch_of("pairs", "tree", known={"initial"})
    examples = {e.target.id: e for window in windows_of("pairs") for unit in window for e in unit}
    logps = alone(params_of(INITIAL), list(examples.values()))
    for place in placed:
        at = list(examples).index(place.id)
        to = slice(place.start, place.start + place.length)
        batch.replies.known["initial"][place.row, to] = logps[at, : place.length]
    gradients, metrics, _ = sums_of(settings(objective_name="dpo"), batch, "tree")
    loss, gradient = by_hand("pairs")
    np.testing.assert_allclose(metrics["loss"].mean(), loss, **MEANS)
    check_gradients(gradients, gradient, metrics["loss"].count)
