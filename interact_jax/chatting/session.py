"""A chat without a terminal: messages in, replies out, and everything that commands can do.

session = Session(Learner(cfg, model, model.load()), SamplingParams(temperature=0.7))
reply = session.send("Hello", show=print)      printed piece by piece while it is drawn
session.send("Shorter, please")
session.learn(); session.undo()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from interact_jax.chatting.learner import NOTHING_YET, Learner, Lesson
from interact_jax.chatting.stream import TextStream
from interact_jax.chatting.transcript import ChatLog, Transcript
from interact_jax.chatting.window import window_of
from interact_jax.generation.chat_model import message_of, text_of
from interact_jax.generation.engine import Completion, Request, SamplingParams, seed_of
from interact_jax.generation.local import sampler_of
from interact_jax.models import hf
from interact_jax.schema import Conversation, InputError, Interaction, Message
from interact_jax.signal import Scored

NOTHING_SAID = "there is no exchange yet."
Show = Callable[[str], object]
Stopped = Callable[[], bool]


@dataclasses.dataclass(frozen=True)
class Reply:
    """A reply as it is kept, and what is to be said about it."""

    message: Message
    completion: Completion
    notes: list[str]


class Session:
    """A conversation with a model that learns. `log`, if given, has every exchange on disk as soon
    as it is complete."""

    def __init__(
        self,
        learner: Learner,
        params: SamplingParams,
        seed: int = 0,
        system: str = "",
        log: ChatLog | None = None,
    ):
        """Raises InputError for settings that the model's chat template cannot follow."""
        self.learner, self.model, self.params = learner, learner.model, params
        self.transcript = Transcript(check_text(system))
        self._kind = self.model.chat.prompt_kind
        self._seed, self._log = seed, log
        self._sampler = sampler_of(self.model, rows=1)
        self._sampler.load(learner.params)
        self._asked = 0  # for replies, by which their random numbers differ
        self._left_out = 0  # messages of the conversation that are not sent
        self._saved = 0  # steps that the saved model has

    @property
    def unsaved(self) -> int:
        """How many of the steps that were learned no saved model has."""
        return self.learner.steps - self._saved

    # ----------------------------------------------------------------------------------- talking

    def send(self, text: str, show: Show | None = None, stopped: Stopped = lambda: False) -> Reply:
        """The reply to a message. `show` gets its text piece by piece; `stopped` is asked after
        every token, and ends the reply there.

        Raises InputError for a message that cannot be sent; the conversation is then as before.
        """
        return self._exchange(self.transcript, Message("user", check_text(text)), show, stopped)

    def retry(self, show: Show | None = None, stopped: Stopped = lambda: False) -> Reply:
        """Another reply to the last message, in place of the one there is."""
        user, before = self._last()
        reply = self._exchange(self.transcript.without_last(), user, show, stopped)
        if self.params.temperature == 0 and reply.message.content == before.content:
            reply.notes.append("the same reply: at temperature 0 it changes only with the model")
        return reply

    def back(self) -> str:
        """Remove the last exchange; returns what the user said in it."""
        user, _ = self._last()
        self._left_out = 0
        self._set(self.transcript.without_last())
        return user.content

    def new(self) -> None:
        """Begin another conversation with the same system message."""
        self._left_out = 0
        self.transcript = Transcript(self.transcript.system)

    def set_system(self, text: str) -> bool:
        """Begin with another system message, "" for none; returns whether that begins another
        conversation, because replies of this one did not see it."""
        begun = bool(self.transcript.exchanges)
        self._left_out = 0
        self.transcript = Transcript(check_text(text))
        return begun

    def _exchange(
        self, before: Transcript, user: Message, show: Show | None, stopped: Stopped
    ) -> Reply:
        notes: list[str] = []
        ids = self._prompt(before, user, notes)
        completion, was_stopped = self._sample(ids, show, stopped)
        reply = message_of(completion, self.model.chat, self.params.stop)
        if not reply.content.strip():
            notes.append("the model ended without saying anything")
        if not (completion.finished or completion.stopped or was_stopped):
            notes.append(f"cut after {len(completion.ids):,} tokens (--max-new-tokens, context)")
        self._set(before.with_exchange(user, reply))
        return Reply(reply, completion, notes)

    def _prompt(self, before: Transcript, user: Message, notes: list[str]) -> list[int]:
        chat, context = self.model.chat, self.model.config.max_positions
        if token := chat.special_token_in(user.content):
            notes.append(f"{token!r} in the message is read as a special token")
        messages = before.read(user).messages
        window = window_of(
            messages, chat, context, self.params.max_new_tokens, self._kind, self._left_out
        )
        if window.left_out and not self._left_out:
            notes.append(
                f"the context of {context:,} tokens is full: from now on the oldest messages are"
                " not sent any more"
            )
        self._left_out = window.left_out
        return window.ids

    def _sample(
        self, ids: Sequence[int], show: Show | None, stopped: Stopped
    ) -> tuple[Completion, bool]:
        """The completion, and whether it was stopped before its end."""
        chat, stop = self.model.chat, self.params.stop
        stream, was_stopped = TextStream(chat.decode, stop), False

        def look(_: int, ids: list[int]) -> bool:
            nonlocal was_stopped
            if show is not None and (piece := stream.more(ids)):
                show(piece)
            was_stopped = stopped()
            return was_stopped

        self._asked += 1
        request = Request(ids, self.params, seed_of(self._seed, self._asked))
        (completion,) = self._sampler.sample([request], look=look, look_every=1)
        if show is not None and (piece := stream.rest(text_of(completion, chat, stop))):
            show(piece)
        return completion, was_stopped

    def _last(self) -> tuple[Message, Message]:
        if not self.transcript.exchanges:
            raise InputError(NOTHING_SAID)
        return self.transcript.exchanges[-1]

    def _set(self, transcript: Transcript) -> None:
        self.transcript = transcript
        if self._log is not None:
            self._log.keep(transcript)

    # ---------------------------------------------------------------------------------- learning

    def learn(self, steps: int = 1, stopped: Stopped = lambda: False) -> Lesson:
        """Take steps on this conversation; `stopped` is asked between them.

        Raises InputError where there is nothing to learn from.
        """
        conversation = self._conversation()
        self._sampler.unload()  # the step needs the memory
        try:
            lesson = self.learner.learn(conversation, steps, stopped)
        finally:
            self._sampler.load(self.learner.params)
        return lesson

    def undo(self) -> bool:
        """Take the last lesson back; False where there is none."""
        self._sampler.unload()
        undone = self.learner.undo()
        self._sampler.load(self.learner.params)
        self._saved = min(self._saved, self.learner.steps)
        return undone

    def signal(self) -> tuple[Scored, Interaction]:
        """The last reply that has a follow-up, token by token, as the model sees it now.

        Raises InputError where there is none, or it cannot be shown to the model.
        """
        conversation = self._conversation()
        interactions = {interaction.id: interaction for interaction in conversation.interactions()}
        last = [index for _, index in conversation.replies()][-1:]
        owned = dataclasses.replace(conversation, owned=frozenset(last))
        scored = self.learner.score(owned)[-1]
        return scored, interactions[scored.id]

    def _conversation(self) -> Conversation:
        if not self.transcript.exchanges:
            raise InputError(NOTHING_YET)
        return self.transcript.read(repair=self.learner.cfg.data.repair)

    def save(self, directory: str) -> Path:
        """Export the model of now as a Hugging Face directory. Raises InputError for a place where
        it cannot be."""
        out = Path(directory).expanduser()
        hf.check_place(out, (self.model.files, self.model.tokenizer_files))
        self.model.export(self.learner.params, out, self.learner.cfg.export.dtype)
        self._saved = self.learner.steps
        return out

    def count_parameters(self) -> int:
        """Numbers that the model has."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.learner.params))


def check_text(text: str) -> str:
    """`text`, if it can be written and tokenised. Raises InputError for half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text[error.start]!r} is no character; expected UTF-8. Type it again."
        ) from None
    return text
