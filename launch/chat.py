"""Chat with a model in the terminal, and teach it.

    python launch/chat.py --model pocket
    python launch/chat.py --model Qwen/Qwen3-0.6B --log chat.jsonl --config.optim.lr=1e-5
    echo "What is 2 plus 3?" | python launch/chat.py --model runs/mine --temperature 0

Type a message, then what you think of the reply. /signal colours the reply by what you said of it,
/learn takes a training step on the conversation, /undo takes it back, /help lists the rest. Set any
setting that a step needs with --config.KEY=VALUE. Standard input may be a pipe: a line is a message
or a command, and replies are standard output.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.begin()

import argparse
import logging
import sys

import jax
from ml_collections import ConfigDict

from interact_jax import cli, config, memory, sharding
from interact_jax.chatting import ChatLog, Learner, Session, Terminal, check_settings
from interact_jax.chatting.screen import Screen
from interact_jax.chatting.terminal import at_terminal
from interact_jax.opening import OpenedModel, open_for
from interact_jax.printable import format_parameters
from interact_jax.sampling_flags import add_flags, params_of
from interact_jax.schema import InputError

log = logging.getLogger("interact_jax.launch.chat")

RECIPE = "chat"
MODEL = "--config.model.path"
NEW_TOKENS = 512


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The named arguments, and the --config.KEY=VALUE ones unparsed."""
    parser = cli.settings_parser(__doc__, RECIPE)
    add = parser.add_argument
    add("--model", required=True, help="Hugging Face directory, hub id, a run, or pocket")
    add("--system", default="", metavar="TEXT", help="the system message")
    add(
        "--log",
        default="",
        metavar="FILE",
        help="file for the conversations, JSON Lines: those of this chat are added, and written "
        "after every reply",
    )
    add_flags(parser, temperature=0.7, new_tokens=NEW_TOKENS)
    cli.name_flags({"model.path": "--model"})
    return parser.parse_known_args(argv)


def main(argv: list[str] | None = None) -> None:
    args, overrides = parse(argv)
    cli.log_to_stderr(logging.INFO)
    logging.getLogger("interact_jax.memory").setLevel(logging.WARNING)
    if sys.stdin is None:
        raise InputError("standard input is closed: nobody can say anything.")
    params = params_of(args)
    cfg = settings_of(args, overrides)
    chat_log = ChatLog(args.log) if args.log else None
    memory.keep_freed()
    cli.keep_compiled(cfg.compile_cache)
    model = open_for(cfg, mesh_of(cfg))
    learner = Learner(cfg, model, model.load())
    session = Session(learner, params, args.seed, args.system, chat_log)
    terminal = Terminal(session, Screen(sys.stdout, sys.stderr), prompt=at_terminal())
    terminal.screen.remark(introduction(args, session))
    terminal.run(sys.stdin.buffer)


def settings_of(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    """The settings of the steps. Raises InputError for those with which a chat cannot learn."""
    if any(override.partition("=")[0] == MODEL for override in overrides):
        raise InputError("the model of a chat is given with --model. Leave the setting out.")
    cfg = config.load(args.config, [*overrides, f"{MODEL}={args.model}"])
    if changed := check_settings(cfg):
        log.info("as a chat learns: %s", ", ".join(changed))
    return cfg


def mesh_of(cfg: ConfigDict) -> jax.sharding.Mesh:
    """The mesh of the settings; one device where they name no sizes, since one conversation has
    nothing to divide among several."""
    if cfg.mesh.data == -1 and all(n == 1 for axis, n in cfg.mesh.items() if axis != "data"):
        return sharding.make_mesh(devices=jax.local_devices()[:1])
    return sharding.make_mesh(**cfg.mesh)


def introduction(args: argparse.Namespace, session: Session) -> str:
    model: OpenedModel = session.model
    return (
        f"{args.model}: {format_parameters(session.count_parameters())} parameters, a context of "
        f"{model.config.max_positions:,} tokens, temperature {args.temperature:g}. Type a message; "
        "/help lists the commands."
    )


if __name__ == "__main__":
    cli.run(main, memory.ADVICE)
