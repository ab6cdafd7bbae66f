r"""The whole of ALOE (arXiv 2410.03642) on the pocket world, in minutes on two CPU cores.

    python launch/train.py --config configs/aloe_pocket.py --workdir runs/aloe

Personas talk with the untrained model for ten rounds. What they want of answers they never say; it
shows in how they write. Every reply is sampled twice, once with a hint at what has shown so far.
The model then learns the better one of each two without the hint: sft, then dpo. At the end other
personas talk with it, and a program scores from 1 to 5 how the replies fit them.

    --config.aloe.train=dpo        one training alone
    --config.aloe.pairs=paper      as in the paper, the hinted reply always counts as the better
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.stages = "aloe"
    c.model.path = "pocket-talks"
    c.model.dtype = "float32"  # CPUs compute float32 fastest
    c.export.dtype = "float32"
    c.data.max_length = 1024
    c.aloe.conversations = 512
    c.aloe.cases = 400
    c.aloe.sft_lr = 1e-3
    c.aloe.sft_epochs = 3.0

    c.objective.name = "dpo"
    c.objective.ignore_first = 0
    c.objective.beta = 0.9
    c.optim.lr = 2e-5
    c.epochs = 1.0
    c.batch.interactions = 0
    c.batch.conversations = 8
    c.batch.row_tokens = 512
    c.batch.rows = 4
    c.remat = "none"
    c.checkpoint.every = 50
    c.evaluation.name = "none"
    c.evaluation.holdout = 0.0
    c.report.interactions = 0
    return c
