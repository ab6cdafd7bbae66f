"""The pocket model learns what the users of its shipped logs want. Minutes on a laptop's CPU.

python launch/train.py --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "pocket"
    c.model.dtype = "float32"  # CPUs compute float32 fastest
    c.data.path = "pocket"  # the shipped logs
    c.data.max_length = 1024
    c.data.max_reply = 512
    c.objective.ignore_first = 0  # pocket replies are short: every token counts

    # Without the cosine, or with twice as many steps, answers get less correct (docs/pocket.md).
    c.optim.lr = 1.3e-4
    c.optim.schedule = "cosine"
    c.optim.clip_norm = 1.0
    c.batch.interactions = 32
    c.batch.row_tokens = 256
    c.batch.rows = 4
    c.remat = "none"  # a model this small need not save memory
    c.epochs = 1.0

    c.checkpoint.every = 100
    c.export.dtype = "float32"
    return c
