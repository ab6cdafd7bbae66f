"""From messages to token ids: chat templates, the hindsight prompt, and the ids of a reply.

The hindsight prompt is the plain prompt with a block appended to its last user message; the block
shows the model what the user said next. Both are rendered by the tokenizer's own chat template.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from transformers import AutoTokenizer

from interact_jax.schema import InputError, Message
from interact_jax.settings import Setting

# The two prompts of the paper, arXiv 2603.12273 and its code (see NOTICE); {o} is the follow-up.
HINDSIGHT = {
    "offline": (
        "\n\n[HINDSIGHT CONTEXT]\nThe following is a user response to your previous, insufficient"
        " attempt. Improve your response to the user prompt.\nFuture User Message: {o}"
    ),
    "online": (
        "\n\n=== HINDSIGHT CONTEXT ===\n[The following is a future user message. Use this to guide"
        " your answer to the user prompt.]\n{o}"
    ),
}
REPLY_TOKENS = ("in_place", "alone")
SETTINGS = {
    "data.reply_tokens": Setting(
        "in_place", "ids that y has behind its prompt, or tokenised by itself", REPLY_TOKENS
    ),
    "hindsight": Setting("offline", "prompt that shows o: offline, online, or a text with {o}"),
}


@dataclasses.dataclass(frozen=True)
class ChatFormat:
    """A tokenizer with its chat template, and how follow-ups and replies become tokens.

    `hindsight` is a text with "{o}"; `reply_tokens` is "in_place" (the ids y has where it stands
    behind the prompt) or "alone" (y tokenised by itself, as the reference implementation does).
    """

    tokenizer: Any
    hindsight: str = HINDSIGHT["offline"]
    reply_tokens: str = "in_place"

    @classmethod
    def load(
        cls, directory: str | Path, hindsight: str = "offline", reply_tokens: str = "in_place"
    ) -> ChatFormat:
        """Load a Hugging Face tokenizer directory; `hindsight` is a name in HINDSIGHT or a text.

        Raises InputError where the tokenizer lacks what chats need: a chat template, an EOS token.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(directory))
        except Exception as error:  # the library raises anything from OSError to KeyError here
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise InputError(
                f"{directory}: no usable tokenizer ({reason}). Expected "
                "tokenizer.json and tokenizer_config.json; set model.tokenizer to a directory that "
                "has them."
            ) from error
        tokenizer.model_max_length = 1 << 30  # lengths are checked against the model, not here
        if not tokenizer.chat_template:
            raise InputError(
                f"{directory}: the tokenizer has no chat template, so conversations cannot be "
                "rendered. Put the model's chat_template.jinja into that directory (base models "
                "have none: take the one of their chat version), or set model.tokenizer to another "
                "directory."
            )
        if tokenizer.eos_token_id is None:
            raise InputError(
                f"{directory}: the tokenizer has no EOS token, so a reply could not learn to stop. "
                'Set "eos_token" in tokenizer_config.json to the token that ends a reply.'
            )
        if reply_tokens not in REPLY_TOKENS:
            raise InputError(
                f"data.reply_tokens={reply_tokens!r}: expected one of {', '.join(REPLY_TOKENS)}."
            )
        template = HINDSIGHT.get(hindsight, hindsight)
        if "{o}" not in template:
            raise InputError(
                f"hindsight={hindsight!r}: expected {', '.join(HINDSIGHT)}, or a text that holds "
                "{o} where the follow-up goes."
            )
        return cls(tokenizer, template, reply_tokens)

    @property
    def eos_id(self) -> int:
        """The token that ends a reply: the tokenizer's EOS."""
        return self.tokenizer.eos_token_id

    def render(self, messages: Sequence[Message], hindsight: str | None = None) -> str:
        """The prompt as text, up to where the model's reply begins; `hindsight` is o or None."""
        rows = [{"role": m.role, "content": m.content} for m in messages]
        if hindsight is not None:
            # replace() and not format(): braces elsewhere in the text mean nothing.
            rows[-1]["content"] += self.hindsight.replace("{o}", hindsight.strip())
        try:
            return self.tokenizer.apply_chat_template(
                rows, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template refuses these messages: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. The template has written BOS already where there is one."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, messages: Sequence[Message], hindsight: str | None = None) -> list[int]:
        """Token ids of the prompt, which ends in a user message, with the generation prompt."""
        return self.encode(self.render(messages, hindsight))

    def reply(self, y: Message, prompt_text: str, prompt_ids: Sequence[int]) -> list[int]:
        """Token ids of y and EOS; trailing white space of y is dropped first.

        What a sampler produced is kept as it is. In place: y is tokenised behind its prompt; where
        a token would span the border between the two, y is tokenised alone.
        """
        if y.token_ids is not None:
            return list(y.token_ids)
        text = y.content.rstrip()
        if self.reply_tokens == "in_place":
            whole = self.encode(prompt_text + text)
            if whole[: len(prompt_ids)] == list(prompt_ids):
                return [*whole[len(prompt_ids) :], self.eos_id]
        return [*self.encode(text), self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens written out and spaces as they are."""
        return self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds; joined they are the text of all."""
        texts = [self.decode(ids[:n]) for n in range(len(ids) + 1)]
        # A character in several tokens shows up with its last: until then decode() ends in U+FFFD.
        shown = [text.rstrip("\ufffd") for text in texts]
        return [after[len(before) :] for before, after in itertools.pairwise(shown)]

    def special_token_in(self, text: str) -> str | None:
        """The first special token that `text` would be parsed into, or None."""
        found = _special_pattern(self.tokenizer).search(text)
        return found and found.group()


@functools.lru_cache(maxsize=8)
def _special_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
