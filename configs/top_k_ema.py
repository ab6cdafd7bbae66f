"""The likeliest k tokens and one bucket for the rest, with a moving average as the teacher.

    python launch/train.py --config configs/top_k_ema.py --workdir runs/top_k

The regularised teacher of arXiv 2601.20802 is for long runs: it follows the policy slowly, so that
the two cannot run away together. It needs a second copy of the parameters, in float32, and its own
forward pass over every tree.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-0.6B"
    c.data.path = "logs.jsonl"  # your own file here
    c.data.on_error = "skip"

    c.objective.name = "top_k"
    c.objective.k = 50
    c.objective.k_by = "student"  # or teacher
    c.objective.ignore_first = 2
    c.teacher.name = "ema"  # or trust_region with its mix, frozen, self
    c.teacher.rate = 0.05  # weight of the policy in the average, per step

    c.optim.lr = 2e-6
    c.optim.clip_norm = 10.0
    c.batch.interactions = 32
    c.epochs = 2.0
    return c
