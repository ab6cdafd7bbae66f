r"""The paper's second online run: Qwen3-8B on HelpSteer2, a user who wants no emojis.

    pip install datasets 'interact_jax[endpoints]'
    python -c "import datasets; datasets.load_dataset('nvidia/HelpSteer2', split='train')\
.to_json('helpsteer2.jsonl')"
    ANTHROPIC_API_KEY=... python launch/train.py --config configs/online_helpsteer2.py \
        --workdir runs/helpsteer2

As configs/online_paper.py, but for model, prompts, user, batch and length; about 165 GB.
The endpoint that plays the user is asked 512 times, for at most 128 tokens each.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-8B"
    c.online.prompts = "helpsteer2.jsonl"
    c.online.format = "helpsteer2"
    c.online.system = "empty"  # a system message without text, as in the paper's runs
    c.online.users = "no_emojis"
    c.online.user_model = "anthropic:claude-haiku-4-5"  # or a model of your own, as in model.path
    c.online.max_prompt = 512
    c.online.new_tokens = 2048
    c.online.temperature = 1.0
    c.data.max_length = 4096

    c.hindsight = "online"
    c.objective.name = "sdpo"
    c.objective.centred = True
    c.objective.ratio = "trainer"
    c.objective.old_every = 1
    c.objective.ratio_clip = 0.2
    c.objective.ignore_first = 0
    c.teacher.name = "self"

    c.optim.name = "adamw"
    c.optim.lr = 5e-6
    c.optim.schedule = "constant"
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.optim.weight_decay = 0.0
    c.batch.interactions = 32
    c.steps = 16  # 512 interactions
    c.epochs = 0.0
    c.limits.user = float("inf")
    c.limits.conversation = float("inf")

    c.batch.row_tokens = 4096
    c.batch.rows = 1
    c.remat = "full"
    c.checkpoint.every = 3
    c.evaluation.every = 3
    return c
