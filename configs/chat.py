"""One conversation, learned as it was held: what /learn does in a chat. Copy it for other steps.

python launch/chat.py --model pocket --config configs/chat.py --log chat.jsonl

The same from the file of the conversation, a step for every /learn:

python launch/train.py --config configs/chat.py --workdir runs/chat --config.data.path=chat.jsonl
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "pocket"
    c.model.dtype = "float32"
    c.data.path = "chat.jsonl"
    c.data.max_length = 1024  # the context of the pocket model
    c.data.max_reply = 512
    c.objective.ignore_first = 0

    # A step should show. For models of a billion parameters and more, begin with 1e-6.
    c.optim.lr = 1e-4
    c.optim.schedule = "constant"  # a chat has no planned end
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.batch.conversations = 1
    c.batch.interactions = 0
    c.batch.row_tokens = 256
    c.remat = "none"
    c.steps, c.epochs = 1, 0.0

    c.evaluation.name = "none"
    c.export.dtype = "float32"  # bfloat16 would lose what few steps change
    return c
