"""Self-distillation over the whole vocabulary instead of the sampled token alone.

    python launch/train.py --config configs/full_vocabulary.py --workdir runs/full

The paper's objective is the reverse KL; its own runs estimate it from the logged token, which is
the noisiest way. Here every token of the vocabulary counts, at the cost of the head's logits, which
are computed anyway. The teacher stays near the initial model, which costs two fifths more and kept
runs of ten epochs from collapsing. docs/objectives.md compares divergences and teachers.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-0.6B"
    c.data.path = "logs.jsonl"  # your own file here
    c.data.on_error = "skip"

    c.objective.name = "reverse_kl"  # or forward_kl, or jsd with its alpha
    c.objective.alpha = 0.5
    c.objective.ignore_first = 2
    c.objective.kl_initial = 0.0  # above 0, holds the model near the initial one
    c.teacher.name = "trust_region"  # or ema: cheaper, for an epoch or two

    c.optim.lr = 2e-6
    c.optim.clip_norm = 10.0
    c.batch.interactions = 32
    c.epochs = 2.0
    return c
