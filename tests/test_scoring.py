"""The chunked scorer, the objective and the sums, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from interact_jax import config, hlo, sharding
from interact_jax.logits import VOCABULARY, logp, top
from interact_jax.objectives import terms_of, total_of, total_weight
from interact_jax.schema import Replies, Sum
from interact_jax.scoring import Role, Seen, Source, score

B, R, D, V = 2, 7, 6, 11
KEYS = jax.random.split(jax.random.key(0), 3)
HEAD = jax.random.normal(KEYS[0], (D, V))
STUDENT, TEACHER = (jax.random.normal(key, (B, R, D)) for key in KEYS[1:])
P, H = Source("policy", "plain"), Source("policy", "hindsight")
ROLES = {"student": Role((P,)), "teacher": Role((H,))}
TARGET = np.random.default_rng(0).integers(0, V, (B, R))


def plain(hidden, head):
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    logits -= logits.max(-1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(logp, TARGET[..., None], -1)[..., 0]


@pytest.mark.parametrize("chunk", [1, 3, 7, 128])
def test_chunks_do_not_change_log_probabilities(chunk):
    seen = {P: Seen(STUDENT, HEAD), H: Seen(TEACHER, HEAD)}
    found = score(seen, ROLES, TARGET, {role: logp(role) for role in ROLES}, chunk=chunk)
    np.testing.assert_allclose(found["student"], plain(STUDENT, HEAD), atol=1e-5)
    np.testing.assert_allclose(found["teacher"], plain(TEACHER, HEAD), atol=1e-5)


def test_a_role_may_be_made_of_several_sources():
    seen = {P: Seen(STUDENT, HEAD), H: Seen(TEACHER, HEAD)}
    roles = {"teacher": Role((P, H), lambda p, h: 0.25 * p + 0.75 * h)}
    found = score(seen, roles, TARGET, {"teacher": logp("teacher")})
    np.testing.assert_allclose(
        found["teacher"], plain(0.25 * STUDENT + 0.75 * TEACHER, HEAD), atol=1e-5
    )


def of_one(hidden, head, target, chunk):
    """Log-probabilities of one source."""
    roles = {"student": ROLES["student"]}
    found = score({P: Seen(hidden, head)}, roles, target, {"logp": logp("student")}, chunk=chunk)
    return found["logp"]


def test_gradients_do_not_depend_on_the_chunk():
    def total(hidden, head, chunk):
        return of_one(hidden, head, TARGET, chunk).sum()

    whole = jax.grad(total, (0, 1))(STUDENT, HEAD, 7)
    for chunk in (1, 3):
        for a, b in zip(jax.grad(total, (0, 1))(STUDENT, HEAD, chunk), whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_no_array_has_tokens_by_vocabulary():
    """The largest array of the traced value and gradient is a chunk's logits or the head's."""
    r, v, chunk = 64, 97, 8

    def total(hidden, head):
        target = jnp.zeros((1, r), jnp.int32)
        return of_one(hidden, head, target, chunk).sum()

    shapes = (jnp.zeros((1, r, 4)), jnp.zeros((4, v)))
    text = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(*shapes))
    assert f"[1,{chunk},{v}]" in text
    assert f"[1,{r},{v}]" not in text
    assert f"[{r // chunk},1,{chunk},{v}]" not in text


def test_the_backward_pass_does_not_compute_a_log_sum_exp_again():
    """It is what is saved of a chunk: of all chunks a number per token."""

    def total(hidden, head):
        return of_one(hidden, head, TARGET, 3).sum()

    text = str(jax.make_jaxpr(jax.grad(total, (0, 1)))(STUDENT, HEAD))
    assert text.count("dot_general") == 4  # logits, again for the backward pass, two gradients
    assert text.count("reduce_max") == 1


def on_mesh(hidden, head, target, **mesh):
    """Value and gradient of the sum of log-probabilities, alone and under a mesh, with its text."""

    def total(hidden, head):
        return of_one(hidden, head, target, 4).sum()

    step, mesh = jax.value_and_grad(total, (0, 1)), sharding.make_mesh(**mesh)
    alone = step(hidden, head)
    with sharding.on(mesh):
        shape = {"head_DxV": jax.ShapeDtypeStruct(head.shape, head.dtype)}
        layout = sharding.layout_of(sharding.with_layout(shape, mesh))["head_DxV"]
        placed = sharding.place_rows(hidden, mesh), jax.device_put(head, layout)
        compiled = jax.jit(step).lower(*placed).compile()
        return alone, compiled(*placed), compiled.as_text()


def test_a_mesh_computes_the_same_where_it_does_not_divide_the_vocabulary():
    keys = jax.random.split(jax.random.key(1), 2)
    hidden, head = jax.random.normal(keys[0], (8, 16, 32)), jax.random.normal(keys[1], (32, 97))
    target = np.random.default_rng(0).integers(0, 97, (8, 16))
    alone, together, _ = on_mesh(hidden, head, target, data=2, fsdp=2, tensor=2)
    for x, y in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_the_head_does_not_go_to_the_tokens():
    """Value and gradient of four chunks send less than the head; it is laid out anew once."""
    hidden, head = jnp.zeros((8, 16, 32)), jnp.zeros((32, 4096))
    *_, text = on_mesh(hidden, head, np.zeros((8, 16), np.int32), data=1, fsdp=4, tensor=2)
    sent = sum(traffic.bytes for traffic in hlo.collectives(text, 8).values())
    assert sent < head.nbytes


@pytest.mark.parametrize("V, k", [(4096, 20), (64, 20), (97, 20)])
def test_the_largest_of_a_vocabulary_that_is_shared_out(V, k):
    """k may be more than a device has of it; 97 does not divide, and stays whole."""
    rng = np.random.default_rng(0)
    x = jnp.array(rng.integers(-3, 3, (4, 16, V)), jnp.float32)  # many are equal
    largest, index = jax.lax.top_k(x, k)
    mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
    with sharding.on(mesh):
        names = VOCABULARY if V % 4 == 0 else None
        layout = jax.sharding.NamedSharding(mesh, PartitionSpec("data", None, names))
        compiled = jax.jit(lambda x: top(x, k)).lower(jax.device_put(x, layout)).compile()
        found = compiled(jax.device_put(x, layout))
    np.testing.assert_array_equal(found[0], largest)
    np.testing.assert_array_equal(found[1], index)
    if V == 4096:
        sent = sum(traffic.bytes for traffic in hlo.collectives(compiled.as_text(), 8).values())
        assert sent < x.nbytes / 32


def replies_of(lengths, ignore_first=0):
    columns = {name: [] for name in ("example", "offset", "weight")}
    for number, n in enumerate(lengths):
        counted = np.arange(n) >= ignore_first
        columns["example"] += [number] * n
        columns["offset"] += range(n)
        columns["weight"] += list(counted / max(1, counted.sum()))
    rest = R - sum(lengths)
    columns["example"] += [-1] * rest
    columns["offset"] += [0] * rest
    columns["weight"] += [0.0] * rest
    row = {name: np.asarray(values)[None] for name, values in columns.items()}
    zero = np.zeros((1, R), np.int32)
    there = np.arange(R)[None] < len(lengths)
    return Replies(
        example_BxR=row["example"],
        target_BxR=zero,
        weight_BxR=row["weight"],
        predictor={},
        known={},
        unit_BxI=np.where(there, np.arange(R)[None], -1),
        side_BxI=zero,
        share_BxI=there.astype(np.float32),
    )


def sdpo(quantities, replies, **settings):
    """Loss and metrics under these settings."""
    c = config.default()
    for name, value in settings.items():
        c.objective[name] = value
    return total_of(terms_of(c.objective), quantities, replies)


def test_sdpo_is_the_mean_over_interactions_of_the_mean_over_tokens():
    replies = replies_of([4, 2], ignore_first=1)
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, 1, R)).astype(np.float32)
    student[0, 6] = np.nan  # padding may hold anything
    loss, metrics = sdpo({"logp_student": student, "logp_teacher": teacher}, replies)
    signal = (teacher - student)[0]
    terms = -signal * student[0]
    expected = (terms[1:4].mean() + terms[5:6].mean()) / 2
    np.testing.assert_allclose(loss.mean(), expected, rtol=1e-5)
    assert loss.count == total_weight(replies) == 2
    counted = signal[[1, 2, 3, 5]]
    np.testing.assert_allclose(metrics["signal_mean"].mean(), counted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["signal_abs_mean"].mean(), abs(counted).mean(), rtol=1e-5)


def test_sdpo_moves_the_student_by_its_signal_alone():
    """d loss / d logp_student = -signal * weight / count; the signal is a constant."""
    replies = replies_of([4, 2])
    rng = np.random.default_rng(1)
    student, teacher = (jnp.asarray(x) for x in rng.normal(size=(2, 1, R)))

    def loss(student, teacher):
        total, _ = sdpo({"logp_student": student, "logp_teacher": teacher}, replies)
        return total.mean()

    to_student, to_teacher = jax.grad(loss, (0, 1))(student, teacher)
    expected = -(teacher - student) * replies.weight_BxR / 2
    np.testing.assert_allclose(to_student, expected, atol=1e-6)
    assert (to_teacher == 0).all()


def test_sums_add_before_they_divide():
    one = Sum.of(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False]))
    other = Sum.of(jnp.array([6.0]), jnp.array([True]))
    assert float((one + other).mean()) == 3.0
    assert float(Sum.of(jnp.ones(2), jnp.zeros(2, bool)).mean()) == 0.0
