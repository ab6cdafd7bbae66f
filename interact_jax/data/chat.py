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

from interact_jax.data.abilities import Abilities, abilities_of
from interact_jax.data.templates import ChatTemplate
from interact_jax.data.tokenizer import load_tokenizer
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
    template: ChatTemplate
    hindsight: str = HINDSIGHT["offline"]
    reply_tokens: str = "in_place"

    @classmethod
    def load(
        cls, directory: str | Path, hindsight: str = "offline", reply_tokens: str = "in_place"
    ) -> ChatFormat:
        """Load a Hugging Face tokenizer directory; `hindsight` is a name in HINDSIGHT or a text.

        Raises InputError where the tokenizer lacks what chats need: a chat template, an EOS token.
        """
        tokenizer = load_tokenizer(Path(directory))
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
        shows = HINDSIGHT.get(hindsight, hindsight)
        if "{o}" not in shows:
            raise InputError(
                f"hindsight={hindsight!r}: expected {', '.join(HINDSIGHT)}, or a text that holds "
                "{o} where the follow-up goes."
            )
        return cls(tokenizer, _template_of(tokenizer, Path(directory)), shows, reply_tokens)

    @property
    def eos_id(self) -> int:
        """The token that ends a reply: the tokenizer's EOS."""
        return self.tokenizer.eos_token_id

    @property
    def vocabulary(self) -> int:
        """Ids are below this number; they may have gaps."""
        return max(len(self.tokenizer), 1 + max(self.tokenizer.get_vocab().values(), default=-1))

    @functools.cached_property
    def abilities(self) -> Abilities:
        """What the template takes and shows, found out when it is first asked."""
        return abilities_of(self.template)

    def render(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
    ) -> str:
        """The prompt as text, up to where the model's reply begins; `hindsight` is o or None. It
        goes to the last message of the user, behind which may be those of tools."""
        rows = [{"role": m.role, "content": m.content, **m.fields} for m in messages]
        if hindsight is not None:
            asked = next(row for row in reversed(rows) if row["role"] == "user")
            # replace() and not format(): braces elsewhere in the text mean nothing.
            asked["content"] += self.hindsight.replace("{o}", hindsight.strip())
        if rows[0]["role"] != "user" or any(len(row) > 2 for row in rows):
            rows = self.abilities.fit(rows)
        return self.template.render(rows, tools)

    def encode(self, text: str) -> list[int]:
        """Token ids of rendered text. The template has written BOS already where there is one."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(
        self,
        messages: Sequence[Message],
        hindsight: str | None = None,
        tools: Sequence[Any] = (),
    ) -> list[int]:
        """Token ids of the prompt, with the generation prompt."""
        return self.encode(self.render(messages, hindsight, tools))

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


def _template_of(tokenizer: Any, directory: Path) -> ChatTemplate:
    """The chat template that transformers takes where no other is asked for."""
    own = directory / "chat_template.jinja"
    file = own if own.is_file() else directory / "tokenizer_config.json"
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:  # several, and none is named default
        raise InputError(f"{file}: no chat template for everyday use ({error}).") from None
    if not isinstance(source, str):
        raise InputError(f"{file}: chat_template is no text but a {type(source).__name__}.")
    return ChatTemplate(source, tokenizer.special_tokens_map, file)


@functools.lru_cache(maxsize=8)
def _special_pattern(tokenizer: Any) -> re.Pattern[str]:
    tokens = {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted(tokens, key=lambda t: (-len(t), t))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
