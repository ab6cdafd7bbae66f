r"""ALOE's first step: supervised fine-tuning on the preferred replies (arXiv 2410.03642, its code).

    python launch/train.py --config configs/aloe_sft.py --workdir runs/aloe_sft
    python launch/train.py --config configs/aloe_sft.py --workdir runs/aloe_sft \
        --config.data.path=conversations.jsonl

Reads conversations with two replies at a turn: files of the ALOE project, or the native format with
an "alternative" at each reply. The second step is configs/aloe_dpo.py. Needs about 122 GB for
parameters, gradients and AdamW's moments in float32: shard them over your devices with
--config.mesh.fsdp=-1 --config.mesh.data=1.

Differences from the paper's run, whose code has these settings:
- The loss counts reply tokens alone, and every reply alike. Theirs counts all tokens of a text, the
  user's included, and a text for every turn, so that early turns are counted up to ten times.
- Each turn has its real history. Theirs puts the first message in the place of all of the user's
  and preferred replies in the place of those with which the conversation went on.
- A step has 48 conversations, 480 replies. Theirs has 48 rows of 8,192 tokens, filled with texts.
- Their data are mixed with xingyaoww/code-act, so that the model does not lose what it could do.
- Parameters are float32 and computation is bfloat16; theirs is bfloat16 throughout.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen2-7B-Instruct"  # one of the paper's four; smaller: Qwen/Qwen3-0.6B
    c.data.path = "conversations.jsonl"  # your own file here
    c.data.on_error = "skip"
    c.data.recipe = "chosen"  # preferred replies, whichever the conversation went on with
    c.data.max_length = 8192  # tokens

    c.objective.name = "sft"
    c.objective.ignore_first = 0

    c.optim.name = "adamw"
    c.optim.lr = 1e-5
    c.optim.schedule = "linear"  # this line and the next three: the defaults of their trainer
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.optim.weight_decay = 0.0
    c.batch.interactions = 480  # replies
    c.epochs = 1.0

    c.batch.row_tokens = 8192
    c.batch.rows = 1
    c.remat = "full"
    return c
