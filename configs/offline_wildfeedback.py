r"""The paper's offline run: Qwen3-4B on WildFeedback (arXiv 2603.12273, section 5 and its code).

    pip install datasets
    python -c "import datasets; datasets.load_dataset('microsoft/WildFeedback', 'wildfeedback', \
split='train').to_json('wildfeedback.jsonl')"
    python launch/train.py --config configs/offline_wildfeedback.py --workdir runs/wildfeedback

Needs about 64 GB for parameters, gradients and AdamW's moments in float32: shard them over your
devices with --config.mesh.fsdp=-1 --config.mesh.data=1.

Differences from the paper's run:
- AdamW keeps its moments in float32; theirs are 8-bit (which affects memory, not the method).
- Parameters are float32 and computation is bfloat16; theirs is bfloat16 throughout.
- History is the whole conversation in a hopping window, so that its turns share one token tree.
  Theirs is --config.data.history=reference: the last 5 messages, x and (x, o) cut on the left.
- Influence is limited (limits.user, limits.conversation): if the file names no users, a
  conversation longer than 4 times the median counts as 4 times. Theirs has no limits (inf).
- Their filters (length of conversations and messages) are not applied: long replies are cut at
  data.max_reply, and the window hops through longer conversations.
"""

from ml_collections import ConfigDict

from interact_jax import config


def get_config() -> ConfigDict:
    c = config.default()
    c.model.path = "Qwen/Qwen3-4B"  # smaller: Qwen/Qwen3-0.6B
    c.data.path = "wildfeedback.jsonl"  # your own file here
    c.data.on_error = "skip"  # real logs have broken records; the summary counts them
    c.data.max_length = 4096  # tokens
    c.data.max_reply = 2048

    c.hindsight = "offline"
    c.objective.name = "sdpo"
    c.objective.ignore_first = 2

    c.optim.name = "adamw"
    c.optim.lr = 2e-6
    c.optim.schedule = "cosine"
    c.optim.warmup_fraction = 0.05
    c.optim.clip_norm = 10.0
    c.optim.weight_decay = 0.0
    c.batch.interactions = 32  # per step, on any number of devices
    c.epochs = 2.0

    c.batch.row_tokens = 4096  # same as data.max_length: the longest conversation fills a row
    c.batch.rows = 1
    c.remat = "full"
    c.checkpoint.every = 200
    return c
