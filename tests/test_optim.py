"""Schedules and optimisers against formulas written out."""

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from interact_jax import run_state, train
from interact_jax.optim import clip_factor, learning_rate, make_optimiser
from interact_jax.schema import InputError, Sum


def settings(**changes):
    base = {
        "name": "adamw",
        "lr": 0.5,
        "weight_decay": 0.1,
        "schedule": "constant",
        "warmup_fraction": 0.0,
        "clip_norm": math.inf,
    }
    return types.SimpleNamespace(**base | changes)


def test_warm_up_is_linear_and_cosine_ends_at_zero():
    lr = learning_rate(settings(schedule="cosine", warmup_fraction=0.2), 100)
    rates = [float(lr(step)) for step in range(21)]
    np.testing.assert_allclose(rates, 0.5 * np.arange(1, 22) / 21, rtol=1e-6)
    np.testing.assert_allclose(lr(60), 0.25, rtol=1e-6)
    np.testing.assert_allclose(lr(100), 0.0, atol=1e-7)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_stays_at_zero_after_the_end(schedule):
    lr = learning_rate(settings(schedule=schedule), 10)
    np.testing.assert_allclose([lr(10), lr(13), lr(20)], 0.0, atol=1e-7)


def test_constant_without_warm_up_is_constant():
    lr = learning_rate(settings(), 10)
    assert {float(lr(step)) for step in range(10)} == {0.5}


def test_a_run_of_one_step_moves():
    lr = learning_rate(settings(schedule="cosine", warmup_fraction=0.05), 1)
    assert float(lr(0)) == 0.5
    assert float(learning_rate(settings(warmup_fraction=1.0), 2)(1)) == 0.5


def test_linear_falls_to_zero():
    lr = learning_rate(settings(schedule="linear"), 10)
    np.testing.assert_allclose([lr(0), lr(5), lr(10)], [0.5, 0.25, 0], atol=1e-7)


PARAMS = {"layers": {"q_DxHxK": jnp.full((2,), 2.0), "q_norm_K": jnp.full((2,), 2.0)}}
PARAMS["layers"]["q_bias_HxK"] = jnp.full((2,), 2.0)
GRADIENTS = {"layers": {"q_DxHxK": jnp.array([3.0, -4.0]), "q_norm_K": jnp.array([0.0, 0.0])}}
GRADIENTS["layers"]["q_bias_HxK"] = jnp.array([0.0, 0.0])


def first_update(**changes):
    optimiser = make_optimiser(settings(**changes))
    updates, _ = optimiser.update(GRADIENTS, optimiser.init(PARAMS), PARAMS)
    return updates["layers"]


def test_adamw_starts_with_the_sign_and_decays_matrices_only():
    found = first_update()
    np.testing.assert_allclose(found["q_DxHxK"], [1 + 0.2, -1 + 0.2], rtol=1e-5)
    for name in ("q_norm_K", "q_bias_HxK"):
        np.testing.assert_allclose(found[name], [0, 0], atol=1e-7)


def test_sgd_is_the_gradient():
    np.testing.assert_allclose(first_update(name="sgd", weight_decay=0.0)["q_DxHxK"], [3, -4])


def test_a_gradient_beyond_the_norm_is_shortened_to_it():
    factors = [float(clip_factor(jnp.float32(norm), 2.0)) for norm in (0.0, 1.0, 2.0, 8.0)]
    assert factors == [1.0, 1.0, 1.0, 0.25]
    assert float(clip_factor(jnp.float32(5.0), math.inf)) == 1.0


def test_unknown_names_list_what_there_is():
    with pytest.raises(InputError, match=r"optim\.name='adam'.*adamw, sgd"):
        make_optimiser(settings(name="adam"))
    with pytest.raises(InputError, match=r"optim\.schedule='cos'.*constant, linear, cosine"):
        learning_rate(settings(schedule="cos"), 1)


def updated(steps=1, **settings):
    """What `train.update` makes of weights of 2 by a gradient of norm 5, as a mean over 4 examples;
    the learning rate is 0.5 at the first step, 0.25 at the second."""
    optimiser = make_optimiser(SGD)
    params = {"w_D": jnp.full((2,), 2.0)}
    zero = jnp.zeros((), jnp.int32)
    model = run_state.Model(params, optimiser.init(params))
    state = run_state.TrainState(
        zero, {"policy": model}, run_state.Counters(zero, zero, zero, zero)
    )
    sums = (
        {"w_D": 4 * jnp.array([3.0, -4.0])},
        {"loss": Sum(jnp.float32(4), jnp.float32(4))},
        {"interactions": zero, "reply_tokens": zero},
    )
    for _ in range(steps):
        state, shown = train.update(
            state, sums, optimiser=optimiser, lr=lambda step: 0.5 / (step + 1), rules={}, **settings
        )
    return state.params["w_D"], shown


SGD = settings(name="sgd", weight_decay=0.0)


def test_a_step_clips_the_mean_gradient():
    free, shown = updated(clip_norm=math.inf)
    np.testing.assert_allclose(free, [2 - 1.5, 2 + 2])
    assert (float(shown["grad_norm"]), float(shown["lr"])) == (5, 0.5)
    clipped, shown = updated(clip_norm=1.0)
    np.testing.assert_allclose(clipped, [2 - 0.3, 2 + 0.4], rtol=1e-6)
    assert float(shown["grad_norm"]) == 5  # before clipping


def test_a_step_moves_at_the_rate_of_its_number():
    found, shown = updated(steps=2, clip_norm=math.inf)
    np.testing.assert_allclose(found, [2 - 1.5 - 0.75, 2 + 2 + 1])
    assert float(shown["lr"]) == 0.25
