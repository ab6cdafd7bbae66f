r"""ALOE's second step: DPO on a pair at every turn of a conversation (arXiv 2410.03642, its code).

    python launch/train.py --config configs/aloe_dpo.py --workdir runs/aloe_dpo \
        --config.start_from=runs/aloe_sft
    python launch/train.py --config configs/aloe_dpo.py --workdir runs/aloe_dpo_alone

The first begins with the weights that configs/aloe_sft.py ended with, the second with those of
model.path. The reference is what the run begins with: the fine-tuned model, or the base. Both
replies of every turn are branches of one trunk, the conversation as it went on. Needs about 122 GB
for parameters, gradients and AdamW's moments in float32: shard them over your devices with
--config.mesh.fsdp=-1 --config.mesh.data=1.

Differences from the paper's run, whose code has these settings:
- In their code the policy begins with the base model, as by the second command.
- The rejected reply is the whole reply. Theirs draws one item of it: of a text, one character.
- All pairs of a conversation are in one step, so a step has five conversations or so. Theirs draws
  48 pairs from all conversations.
- Parameters are float32 and computation is bfloat16; theirs is bfloat16 throughout.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen2-7B-Instruct"  # one of the paper's four; that of the run before
    c.data.path = "conversations.jsonl"  # your own file here
    c.data.on_error = "skip"
    c.data.max_length = 8192  # tokens

    c.objective.name = "dpo"
    c.objective.beta = 0.9
    c.objective.ignore_first = 0
    c.objective.reference = "kept"  # computed once; `step` keeps the initial model in memory

    c.optim.name = "adamw"
    c.optim.lr = 1e-5
    c.optim.schedule = "linear"  # this line and the next three: the defaults of their trainer
    c.optim.warmup_fraction = 0.0
    c.optim.clip_norm = 1.0
    c.optim.weight_decay = 0.0
    c.batch.interactions = 48  # pairs
    c.epochs = 1.0

    c.batch.row_tokens = 8192
    c.batch.rows = 1
    c.remat = "full"
    return c
