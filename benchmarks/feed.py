"""Tokens per second from files to rows, against the tokenizer alone on the same text.

    python benchmarks/synthetic_logs.py --out logs --conversations 4000 --length 0.3 --parts 1
    python benchmarks/feed.py --data logs --tokenizer DIRECTORY
    python launch/prepare_data.py --data logs --out data --splits train=1
    python benchmarks/feed.py --data data --tokenizer DIRECTORY

Read, tokenised, grown into trees and packed, with nothing cached, by one process and the one that
renders its chat template, or with the help of --workers others; the tokenizer, a fast one, is given
the rendered conversations in one batch, with as many threads as there are cores. They take turns,
and the fastest of --repeats counts. Tokens are
those of the rendered conversations. Of prepared data there are three figures: `feed` makes trees
and stores them, `stored` reads them again, and `stored_large` does so in steps of --large
interactions.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the slow imports
    from interact_jax import startup

    startup.quieten()

import argparse
import collections
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from interact_jax import cli, config
from interact_jax.arguments import Parser
from interact_jax.data.chat import ChatFormat
from interact_jax.data.conversations import read_conversations
from interact_jax.data.dataset import load_dataset
from interact_jax.data.draws import Draws
from interact_jax.data.encode import EncodeSettings
from interact_jax.data.first_steps import packing_for
from interact_jax.data.limits import Limits
from interact_jax.data.pipeline import Data, LogBatches
from interact_jax.data.prepared import PreparedData, is_prepared
from interact_jax.data.stored import StoredDataset
from interact_jax.data.tokenise import Tokeniser
from interact_jax.schema import Conversation


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", required=True, help="a file, a directory or a glob in quotes")
    add("--tokenizer", required=True, help="directory of a tokenizer with a chat template")
    add("--format", default="auto", help="of the data")
    add("--rows", type=cli.at_least(1), default=8, help="rows of a step")
    add("--row-tokens", type=cli.at_least(1), default=4096)
    add("--interactions", type=cli.at_least(1), default=32, help="of a step")
    add("--large", type=cli.at_least(1), default=256, help="of a step of `stored_large`")
    add("--epochs", type=cli.at_least(1), default=1, help="of stored trees; opening counts once")
    add("--workers", type=cli.at_least(-1), default=-1, help="as data.workers")
    add("--repeats", type=cli.at_least(1), default=3)
    add("--json", default="", metavar="FILE", help="write the figures there")
    args = parser.parse_args(argv)
    chat = ChatFormat.load(args.tokenizer)
    prepared = is_prepared(args.data)
    conversations = (
        list(PreparedData(args.data)) if prepared else read_conversations(args.data, args.format)[0]
    )
    texts = [rendered(conversation, chat) for conversation in conversations]
    tokens, seconds = 0, collections.defaultdict[str, list[float]](list)
    for _ in range(args.repeats):
        with timed(seconds["tokenizer_alone"]):
            tokens = tokenise_alone(texts, chat)
        if not prepared:
            with timed(seconds["feed"]):
                dataset = load_dataset(
                    args.data, args.format, chat, EncodeSettings(), "tree", args.workers
                )
                feed(dataset, args.rows, args.row_tokens, args.interactions)
            continue
        with tempfile.TemporaryDirectory() as folder:
            steps = {"feed": args.interactions, "stored": args.interactions}
            for name, interactions in (steps | {"stored_large": args.large}).items():
                epochs = 1 if name == "feed" else args.epochs
                with timed(seconds[name], epochs):
                    tokeniser = Tokeniser(chat, EncodeSettings(), "tree")
                    data = StoredDataset(
                        PreparedData(args.data), tokeniser, Path(folder), args.workers
                    )
                    feed(data, args.rows, args.row_tokens, interactions, epochs)
                    data.close()
    fastest = {name: min(times) for name, times in seconds.items()}
    alone = fastest["tokenizer_alone"]
    figures: dict[str, float] = {"conversations": len(conversations), "tokens": tokens}
    figures |= {name: round(tokens / best) for name, best in fastest.items()}
    figures |= {
        f"ratio_{name}": round(alone / best, 3) for name, best in fastest.items() if best != alone
    }
    print(json.dumps(figures))
    if args.json:
        Path(args.json).write_text(json.dumps(figures) + "\n")


@contextlib.contextmanager
def timed(seconds: list[float], times: int = 1) -> Iterator[None]:
    """Append how long it took, divided by how often it was done."""
    began = time.perf_counter()
    yield
    seconds.append((time.perf_counter() - began) / times)


def rendered(conversation: Conversation, chat: ChatFormat) -> str:
    """The whole conversation, as one text."""
    rows = [{"role": m.role, "content": m.content} for m in conversation.messages]
    return chat.template.render(rows, finished=True)


def tokenise_alone(texts: Sequence[str], chat: ChatFormat) -> int:
    """How many tokens they have."""
    found = chat.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return sum(len(encoding.ids) for encoding in found)


def feed(dataset: Data, rows: int, row_tokens: int, interactions: int, epochs: int = 1) -> None:
    """Every batch of these epochs."""
    cfg = config.default()
    cfg.batch.rows, cfg.batch.row_tokens, cfg.batch.interactions = rows, row_tokens, interactions
    draws = Draws(dataset.interactions, cfg.batch, 0, epochs)
    packing = packing_for(dataset, draws, row_tokens, rows, 0)
    source = LogBatches(dataset, draws, packing, Limits.of(cfg))
    for _ in range(source.steps_left()):
        source.next()


if __name__ == "__main__":
    cli.run(main)
