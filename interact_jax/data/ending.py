"""The token that ends a reply: the tokenizer's EOS, or the chat template's end of a turn.

Usually they are the same. Where they are not (EOS is `<|endoftext|>`, but turns end with
`<|im_end|>`), a reply has to be learned with the token that stops the model when it is sampled.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from interact_jax.data.templates import ChatTemplate, Refusal

END = ("auto", "eos", "turn")
_ANSWER = "zqanswerqz"


def turn_end(template: ChatTemplate, tokenizer: Any) -> int | None:
    """The first special token (one added to the vocabulary) that a template puts after a finished
    reply; None where there is none."""
    rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = template.render(rows, finished=True)
    except Refusal:
        return None
    suffix = text.rpartition(_ANSWER)[2]
    added = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    ids = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in added and tokenizer.decode([i]).strip()), None)


def choose_end(end: str, eos: int, turn: int | None, stops: Collection[int]) -> int:
    """The id that ends a reply; `stops` are the ids at which the model's own files end sampling."""
    if turn is None or end == "eos" or (end == "auto" and turn not in stops):
        return eos
    return turn
