r"""The pocket model learns online what a user wants, by what the user says; half a minute on CPUs.

    python launch/train.py --config configs/online_pocket.py --workdir runs/online

Another user, who changes their mind after 250 interactions:

    python launch/train.py --config configs/online_pocket.py --workdir runs/flip \
        --config.steps=250 --config.online.users=capitals,-polite \
        --config.online.schedule='250: -capitals,polite'

The mode that we recommend: the whole vocabulary instead of the sampled token, what a follow-up says
as the initial model reads it, and steps as long as that signal is strong. docs/claims.md compares
it with the paper's (configs/online_paper.py).
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "pocket"
    c.model.dtype = "float32"  # CPUs compute float32 fastest
    c.online.prompts = "pocket"
    c.online.users = "emoji,-sentence,polite"
    c.online.new_tokens = 32
    c.data.max_length = 512
    c.hindsight = "online"
    c.objective.name = "reverse_kl"
    c.objective.ignore_first = 0
    c.teacher.name = "frozen_signal"  # says nothing where the follow-up does: nothing is forgotten

    c.optim.name = "sgd"  # adamw makes weak gradients as large as strong ones
    c.optim.lr = 0.1
    c.optim.schedule = "constant"
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.batch.interactions = 2  # many short steps: a long one can ruin the model
    c.batch.row_tokens = 256
    c.batch.rows = 2
    c.remat = "none"
    c.steps = 125  # 250 interactions
    c.epochs = 0.0

    c.checkpoint.every = 25
    c.export.dtype = "float32"
    c.evaluation.every = 25
    c.evaluation.replies = 256
    return c
