"""The token that ends a reply: the tokenizer's EOS, or the one that the chat template ends it with.

Mostly they are one. Where they are not (EOS is `<|endoftext|>`, but turns end with `<|im_end|>`),
a reply has to be learned with the end at which the model is stopped when it is sampled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from interact_jax.data.templates import ChatTemplate, Refusal

END = ("auto", "eos", "turn")
_ANSWER = "zqanswerqz"


def turn_end(template: ChatTemplate, tokenizer: Any) -> int | None:
    """The first token of its own kind (added to the vocabulary) that a template puts behind a
    finished reply; None where there is none."""
    rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
    try:
        said = template.render(rows, finished=True)
    except Refusal:
        return None
    behind = said.rpartition(_ANSWER)[2]
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in added and tokenizer.decode([i]).strip()), None)


def chosen(end: str, eos: int, turn: int | None, stops: Collection[int]) -> int:
    """The id that ends a reply; `stops` are those that the model's own files end sampling at."""
    if turn is None or end == "eos" or (end == "auto" and turn not in stops):
        return eos
    return turn
