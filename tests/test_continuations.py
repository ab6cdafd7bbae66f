import jax
import numpy as np
import pytest

from interact_jax import sharding
from interact_jax.continuations import grow_trees, score_continuations
from interact_jax.models.decoder import Decoder
from tests.generation.test_sampler import CONFIG, full_logps

pytestmark = [pytest.mark.compiled_quickly, pytest.mark.one_device]


@pytest.fixture(scope="module")
def decoder():
    return Decoder(CONFIG, attention="xla")


@pytest.fixture(scope="module")
def params(decoder):
    return jax.jit(decoder.fresh_params)(0)


@pytest.fixture(scope="module")
def mesh():
    return sharding.make_mesh(devices=jax.devices()[:1])


def alone(decoder, params, context, continuation):
    """Sum of log-probabilities, and whether each token is the likeliest, by a full forward."""
    logps_LxV = full_logps(decoder, params, [*context, *continuation])
    rows = range(len(context) - 1, len(context) + len(continuation) - 1)
    steps = [(logps_LxV[row], token) for row, token in zip(rows, continuation, strict=True)]
    return sum(logps_V[i] for logps_V, i in steps), all(x.argmax() == i for x, i in steps)


def greedy(decoder, params, context, tokens):
    ids = list(context)
    for _ in range(tokens):
        ids.append(int(full_logps(decoder, params, ids)[-1].argmax()))
    return ids[len(context) :]


def test_scores_are_those_of_every_pair_by_itself(decoder, params, mesh):
    rng = np.random.default_rng(0)

    def some(low, high):
        return rng.integers(1, CONFIG.vocab_size, rng.integers(low, high)).tolist()

    contexts = [some(1, 20) for _ in range(5)]
    pairs = [(context, some(1, 9)) for context in contexts for _ in range(4)]
    pairs.append((contexts[0], greedy(decoder, params, contexts[0], 3)))
    pairs.append((contexts[1], pairs[5][1]))  # again
    pairs.append((contexts[2][:1], [7]))
    order = rng.permutation(len(pairs))
    pairs = [pairs[place] for place in order]
    scores = score_continuations(decoder, params, pairs, mesh, row_tokens=32)
    expected = [alone(decoder, params, *pair) for pair in pairs]
    for score, (logp, likeliest) in zip(scores, expected, strict=True):
        assert score.logp == pytest.approx(logp, abs=1e-4)
        assert score.greedy == likeliest
    assert sum(score.greedy for score in scores) == 1


def test_a_context_is_computed_once():
    context, other = list(range(5, 30)), list(range(6, 31))
    choices = [[1], [2], [3, 4, 5], [3, 4, 6, 7]]
    trees = grow_trees([(x, y) for y in choices for x in (context, other)])
    assert len(trees) == 2
    for tree in trees:
        assert len(tree.replies) == len(choices)
        # The context and [3, 4, 6]: the last token of a choice is only ever a target.
        assert len(context) + 3 == tree.size.T + tree.size.P


def test_no_pairs_have_no_scores(decoder, params, mesh):
    assert score_continuations(decoder, params, [], mesh) == []
