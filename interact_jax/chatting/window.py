"""What of a conversation is sent to the model: all of it, until the context is full.

Then it hops, as the window of a long conversation in training does (`data.encode`): the oldest
turns are left out until the prompt takes half of the context; the system message stays. The window
then begins at the same message until it is full again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from interact_jax.data.chat import ChatFormat
from interact_jax.schema import InputError, Message

RESERVED = 4  # a reply has this part of the context, where it may be as long as that


@dataclasses.dataclass(frozen=True)
class Window:
    """A prompt: its ids, and how many of the oldest messages it leaves out."""

    ids: list[int]
    left_out: int


def window_of(
    messages: Sequence[Message],
    chat: ChatFormat,
    context: int,
    new_tokens: int,
    kind: str,
    left_out: int = 0,
) -> Window:
    """The prompt for a reply of at most `new_tokens` to the last of these messages, which is the
    user's. At least `left_out` of the oldest messages are left out.

    Raises InputError where the last message alone leaves no room for a reply, or the chat template
    refuses the messages.
    """
    system = list(messages[:1]) if messages[0].role == "system" else []
    turns = messages[len(system) :]
    most = context - min(new_tokens, context // RESERVED)

    def from_turn(start: int) -> Window:
        return Window(chat.prompt([*system, *turns[start:]], kind=kind), start)

    window = from_turn(left_out)
    if len(window.ids) <= most:
        return window
    starts = range(left_out + 1, len(turns))
    for start in (at for at in starts if turns[at].role == "user"):
        window = from_turn(start)
        if len(window.ids) <= context // 2:
            break
    if len(window.ids) >= context:
        raise InputError(
            f"the message takes {len(window.ids):,} tokens as a prompt, which leaves no room for a "
            f"reply in the model's context of {context:,}. Shorten it."
        )
    return window
