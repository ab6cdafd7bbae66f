"""Runs of several stages: what they make first, and which runs follow. Settings only; a method of
this kind has its code in a folder of its own (`aloe`), and an entry in `STAGED` of launch/train.py.
"""

from __future__ import annotations

from interact_jax.settings import MOST_COUNTED, Setting

NONE, ALOE = "none", "aloe"
SFT, DPO = "sft", "dpo"
ORDERS = (f"{SFT},{DPO}", SFT, DPO)

SETTINGS = {
    "stages": Setting(
        NONE,
        "a run of several stages, by its method: aloe makes conversations, trains on them, and "
        "measures; none = one run on data that are there",
        (NONE, ALOE),
    ),
    "aloe.conversations": Setting(512, "conversations to make", least=1, most=MOST_COUNTED),
    "aloe.rounds": Setting(10, "rounds of a conversation, and turns of a case", least=2, most=1000),
    "aloe.pairs": Setting(
        "judged",
        "which of two replies is preferred: paper = the one with the hint, judged = the one that "
        "fits the persona better",
        ("paper", "judged"),
    ),
    "aloe.train": Setting(ORDERS[0], "the trainings, one after the other", ORDERS),
    "aloe.sft_lr": Setting(1e-5, "learning rate of sft; optim.lr is that of dpo", least=0.0),
    "aloe.sft_epochs": Setting(1.0, "passes of sft; epochs are those of dpo", above=0.0, most=1e6),
    "aloe.cases": Setting(
        400, "personas that every model talks with when it is measured", least=2, free=True
    ),
    "aloe.new_tokens": Setting(48, "tokens of a reply, at most", least=1, most=MOST_COUNTED),
}
