"""The dialogue with a person at a terminal, or with a script at a pipe.

    > In one word, please.          at a terminal: a prompt, editing and history of lines, colours
    Paris.
    > /signal

A script's lines come without a prompt, and what is wrong with one ends the program with its number.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import BinaryIO

from rich.text import Text

from interact_jax import report
from interact_jax.chatting import interrupts
from interact_jax.chatting.commands import (
    COMMANDS,
    MARK,
    TEXT,
    TEXT_MEANING,
    number_of_steps,
    parse,
)
from interact_jax.chatting.interrupts import Interrupts
from interact_jax.chatting.learner import Lesson, SignalMeans
from interact_jax.chatting.screen import Screen
from interact_jax.chatting.session import Reply, Session
from interact_jax.printable import count
from interact_jax.schema import InputError

BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
HIDDEN = "\x01{}\x02"  # what takes no columns, as readline marks it
HOW_TO_LEAVE = "/quit or Ctrl-D leaves"
LEGEND = "red: less likely once your next message is known; blue: more likely"


class Terminal:
    """Reads lines until there are no more, and answers them."""

    def __init__(self, session: Session, screen: Screen, *, prompt: bool):
        """`prompt`: a person types, at a terminal."""
        self.session, self.screen, self._prompts = session, screen, prompt
        self._interrupts = Interrupts()  # of a script: Ctrl-C ends the program
        self._warned = False  # that what was learned is not saved

    def run(self, lines: BinaryIO) -> None:
        """Answer everything that comes: from the terminal, or from `lines`.

        Raises InputError, with the number of the line, for one of `lines` that cannot be answered.
        """
        if not self._prompts:
            self._answer_all(lines)
            return
        with interrupts.handling() as self._interrupts:
            while self._answer_next():
                pass

    def _answer_all(self, lines: BinaryIO) -> None:
        for number, raw in enumerate(lines, start=1):
            try:
                if not self._answer(raw.decode().rstrip("\r\n")):
                    break
            except UnicodeDecodeError as error:
                raise InputError(f"standard input:{number}: not UTF-8 ({error}).") from None
            except InputError as error:
                raise InputError(f"standard input:{number}: {error}") from error
        if steps := self.session.unsaved:
            self.screen.remark(f"{count(steps, 'step')} learned and not saved")

    def _answer_next(self) -> bool:
        """Read a line and answer it; False where the dialogue is over."""
        try:
            line = self._read()
            if line is None:
                return not self._may_leave()
            return self._answer(line)
        except KeyboardInterrupt:
            self.screen.remark(HOW_TO_LEAVE)
        except UnicodeDecodeError:
            self.screen.remark("that was not UTF-8; type it again")
        except InputError as error:
            self.screen.remark(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            self.screen.remark(
                f"{error.filename or 'output'}: {error.strerror}. The chat goes on; a log is "
                "written again after the next reply."
            )
        return True

    def _read(self) -> str | None:
        """A line of the person's; None at the end."""
        bold, plain = (HIDDEN.format(x) if self.screen.coloured else "" for x in (BOLD, PLAIN))
        try:
            with self._interrupts.reading():
                return input(f"{bold}> {plain}")
        except EOFError:
            print(flush=True)
            return None
        except KeyboardInterrupt:
            print(flush=True)
            raise

    def _answer(self, line: str) -> bool:
        """Do what a line says; False where it ends the dialogue."""
        if not line.strip():
            return True
        said = parse(line)
        if said.command == "quit":
            return not self._may_leave()
        self._warned = False
        if said.command:
            getattr(self, f"_{said.command}")(said.text)
        else:
            self._reply(self.session.send, said.text)
        return True

    def _may_leave(self) -> bool:
        """Whether to leave now: a person is told once what would be lost."""
        steps = self.session.unsaved
        if not (steps and self._prompts) or self._warned:
            return True
        self._warned = True
        self.screen.remark(
            f"{count(steps, 'step')} learned and not saved: /save DIR keeps the model, "
            "/quit or Ctrl-D once more leaves without"
        )
        return False

    # ---------------------------------------------------------------------------------- commands

    def _reply(self, get: Callable[..., Reply], *arguments: str) -> None:
        with self.screen.reply() as show:
            reply = get(*arguments, show=show, stopped=self._interrupts.asked)
        for note in reply.notes:
            self.screen.remark(f"({note})")

    def _retry(self, _: str) -> None:
        self._reply(self.session.retry)

    def _back(self, _: str) -> None:
        removed = self.session.back()
        left = count(len(self.session.transcript.exchanges), "exchange")
        self.screen.say(f"removed: {_short(removed)} ({left} left)")

    def _new(self, _: str) -> None:
        self.session.new()
        self.screen.say("a new conversation")

    def _system(self, text: str) -> None:
        if not text:
            self.screen.say(self.session.transcript.system or "no system message")
            return
        begun = self.session.set_system("" if text == "off" else text)
        what = "no system message" if text == "off" else "the system message is set"
        self.screen.say(f"{what}; a new conversation" if begun else what)

    def _save(self, directory: str) -> None:
        dtype = self.session.learner.cfg.export.dtype
        self.screen.say(f"saved in {dtype}: {self.session.save(directory)}")

    def _learn(self, argument: str) -> None:
        steps = number_of_steps(argument)
        lesson = self.session.learn(steps, self._interrupts.asked)
        self.screen.say(lesson_line(lesson))
        if len(lesson.losses) < steps:
            self.screen.remark(f"stopped after {count(len(lesson.losses), 'step')} of {steps:,}")
        for line in lesson.lost:
            self.screen.remark(f"  {line}")
        if lesson.forgotten:
            self.screen.remark(f"the oldest {count(lesson.forgotten, 'lesson')} cannot be undone")

    def _undo(self, _: str) -> None:
        if not self.session.undo():
            self.screen.say("nothing to undo")
            return
        more = self.session.learner.kept
        left = f"{more} more to undo" if more else "nothing more to undo"
        self.screen.say(f"the parameters are those before the last /learn; {left}")

    def _signal(self, argument: str) -> None:
        if argument not in ("", "numbers"):
            raise InputError(f"/signal {argument}: expected /signal, or /signal numbers.")
        scored, interaction = self.session.signal()
        chat = self.session.model.chat
        if self.screen.coloured:
            self.screen.print(report.signal_text(scored, chat), Text(LEGEND, style="dim"))
        if argument or not self.screen.coloured:
            self.screen.print(report.signal_table(scored, chat))
        means = SignalMeans.of([scored], self.session.learner.cfg.objective.ignore_first)
        about = f"your next message: {_short(interaction.o.content)}"
        self.screen.say(f"signal {_means(means)} in nats, by {about}")

    def _help(self, _: str) -> None:
        rows = [(f"{MARK}{name} {c.argument}".strip(), c.meaning) for name, c in COMMANDS.items()]
        self.screen.table([*rows, (TEXT, TEXT_MEANING)])


def lesson_line(lesson: Lesson) -> str:
    """What a lesson did, in a line: losses before the steps, and the signal around all of them."""
    first, last = lesson.losses[0], lesson.losses[-1]
    loss = f"{first:.4f}" if len(lesson.losses) == 1 else f"{first:.4f} to {last:.4f}"
    skipped = f", {lesson.skipped} skipped as not finite" if lesson.skipped else ""
    what = f"{count(len(lesson.losses), 'step')} on {count(lesson.interactions, 'interaction')}"
    return (
        f"learned: {what}{skipped}; loss {loss}; "
        f"signal {_means(lesson.before)} before, {_means(lesson.after)} after"
    )


def _means(means: SignalMeans | None) -> str:
    return f"{means.mean:+.4f} (size {means.size:.4f})" if means else "of no counted token"


LONGEST = 40  # characters of a message that is quoted


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def at_terminal() -> bool:
    """Whether a person types here and reads here. Readline, where there is one, gives input()
    editing and a history."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401
    return True
