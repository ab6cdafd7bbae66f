r"""Baseline: supervised fine-tuning, on the logged replies or on the revised ones.

    python launch/train.py --config configs/sft.py --workdir runs/sft
    python launch/train.py --config configs/sft.py --workdir runs/sft_revised \
        --config.objective.name=sft_revised

`sft_revised` learns the reply after the follow-up as the answer to the request before it.
In preference files, data.recipe=chosen takes the preferred replies.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-0.6B"
    c.data.path = "logs.jsonl"  # your own file here
    c.data.on_error = "skip"

    c.objective.name = "sft"  # or sft_revised
    c.objective.ignore_first = 0

    c.optim.lr = 1e-5
    c.optim.clip_norm = 1.0
    c.batch.interactions = 32
    c.epochs = 1.0
    return c
