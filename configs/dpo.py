r"""Baseline: direct preference optimisation of the revised reply over the one before it.

    python launch/train.py --config configs/dpo.py --workdir runs/dpo
    python launch/train.py --config configs/dpo.py --workdir runs/dpo \
        --config.data.path=preferences.jsonl

Preference files (TRL's formats, UltraFeedback, HH-RLHF) are detected; in logs, a reply that drew a
complaint and the reply after it make a pair. Both replies of a pair are branches of one trunk.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-0.6B"
    c.data.path = "logs.jsonl"  # your own file here
    c.data.on_error = "skip"

    c.objective.name = "dpo"
    c.objective.beta = 0.1
    c.objective.ignore_first = 0
    c.objective.reference = "kept"  # computed once; `step` keeps the initial model in memory

    c.optim.lr = 5e-7
    c.optim.clip_norm = 1.0
    c.batch.interactions = 32  # pairs
    c.epochs = 1.0
    return c
