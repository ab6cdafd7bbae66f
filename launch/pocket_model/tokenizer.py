"""The pocket model's tokenizer: byte-level BPE over the world's text, with a chat template.

The text before the follow-up in each hindsight prompt is a single token. Otherwise two thirds of a
hindsight prompt would be that constant text, and training the model would take twice as long.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from interact_jax.data.chat import HINDSIGHT
from pocket_model import lessons

VOCAB_SIZE = 1536  # a multiple of 8
PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
TEXTS_TO_READ = 40_000  # number of lessons that the tokenizer is trained on

# A message renders the same wherever it is, so a longer conversation only adds text at the end.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""


def hindsight_pieces() -> list[str]:
    """The text before the follow-up in each hindsight prompt."""
    return [template.partition("{o}")[0] for template in HINDSIGHT.values()]


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of VOCAB_SIZE tokens, trained on `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    pieces = hindsight_pieces()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(pieces),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in pieces])
    return tokenizer


def lesson_texts(seed: int) -> Iterable[str]:
    """Every message and follow-up of TEXTS_TO_READ random lessons, and the names of the roles."""
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(TEXTS_TO_READ):
        lesson = lessons.draw_lesson(rng, hindsight=lessons.HINDSIGHT_AT_FIRST)
        for message in lesson.messages:
            yield message.content
        if lesson.hindsight:
            yield lesson.hindsight[1]
        yield "system\nuser\nassistant\n"


def write_tokenizer(directory: str | Path, seed: int) -> None:
    """Train the tokenizer and write its Hugging Face files into `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer(lesson_texts(seed)).save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "additional_special_tokens": [START],
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps(settings, indent=2) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
