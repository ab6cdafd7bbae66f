r"""The paper's online run: Qwen3-4B on TL;DR, with one simulated user (arXiv 2603.12273, its code).

    pip install 'datasets<4'  # from 4 on, datasets that come with a script are refused
    python -c "import datasets; datasets.load_dataset('openai/summarize_from_feedback', \
'comparisons', split='train').to_json('tldr.jsonl')"
    python launch/train.py --config configs/online_paper.py --workdir runs/paper

The user is the initial model with a persona; any other model or endpoint may play it, such as
--config.online.user_model=openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1. Needs about 88 GB, for
parameters and a copy of them, gradients, AdamW's moments and the user: shard them over your devices
with --config.mesh.fsdp=-1 --config.mesh.data=1.

Differences from the paper's run:
- AdamW keeps its moments in float32; theirs are 8-bit (which affects memory, not the method).
- Parameters are float32 and computation is bfloat16; theirs is bfloat16 throughout.
- The mode that we would recommend is another: see configs/online_pocket.py and docs/claims.md.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-4B"  # smaller: Qwen/Qwen3-0.6B
    c.online.prompts = "tldr.jsonl"
    c.online.format = "tldr"
    c.online.users = "concise_casual_beginner"
    c.online.user_model = "Qwen/Qwen3-4B"
    c.online.max_prompt = 512  # tokens; longer ones are dropped
    c.online.new_tokens = 2048  # longer replies are cut, and trained on as they are
    c.online.temperature = 1.0  # one reply to each prompt, of the whole vocabulary
    c.data.max_length = 4096  # a prompt, its reply and a follow-up

    c.hindsight = "online"
    c.objective.name = "sdpo"
    c.objective.centred = True  # the signal less its mean over the reply
    c.objective.ratio = "trainer"  # to log-probabilities of the trainer's own, never the sampler's,
    c.objective.old_every = 1  # of the policy that sampled: the ratio is 1, and clipping inert
    c.objective.ratio_clip = 0.2
    c.objective.ignore_first = 0
    c.teacher.name = "self"

    c.optim.name = "adamw"
    c.optim.lr = 5e-6
    c.optim.schedule = "constant"
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.optim.weight_decay = 0.0
    c.batch.interactions = 16
    c.steps = 16  # 256 interactions
    c.epochs = 0.0
    c.limits.user = float("inf")  # there is one user
    c.limits.conversation = float("inf")

    c.batch.row_tokens = 4096
    c.batch.rows = 1
    c.remat = "full"
    c.checkpoint.every = 3
    c.evaluation.every = 3
    return c
