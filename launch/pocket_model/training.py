"""Training of the pocket model: next-token prediction on the world's lessons, replies only."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import queue
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from interact_jax import places, sharding
from interact_jax.data.chat import HINDSIGHT, ChatFormat
from interact_jax.models import hf
from interact_jax.models.attention import backend_for
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import read_config
from interact_jax.models.hf.tensor_files import SINGLE
from interact_jax.schema import InputError, TokenStream
from pocket_model import lessons, talks, tokenizer

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": tokenizer.VOCAB_SIZE,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 384,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_sliding_window": False,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "torch_dtype": "float32",
}
WARMUP = 200  # steps
CLIP_NORM = 1.0
DECAY = 0.01


# ----------------------------------------------------------------------------- the data


@dataclasses.dataclass(frozen=True)
class Course:
    """What to train on: random lessons, in rows of `row` tokens; few lessons are longer."""

    draw: Callable[[random.Random], lessons.Lesson]
    row: int


COURSES = {
    "hindsight": Course(functools.partial(lessons.draw_lesson, kinds=lessons.KINDS), 112),
    "talks": Course(talks.draw_lesson, 512),
}


class LessonEncoder:
    """Encodes lessons as token ids, with a mask of those to learn, by the model's chat template."""

    def __init__(self, directory: Path) -> None:
        self.chats = {name: ChatFormat.load(directory, name) for name in HINDSIGHT}

    def __call__(self, lesson: lessons.Lesson) -> tuple[list[int], list[bool]]:
        """Ids of the whole conversation up to the last EOS; True where a token is a target."""
        name, follow_up = lesson.hindsight or ("offline", None)
        chat = self.chats[name]
        ids: list[int] = []
        learned: list[bool] = []
        before = ""  # the template is prefix-preserving, and tokens do not span an EOS
        for index, message in enumerate(lesson.messages):
            if message.role != "assistant":
                continue
            last = index == len(lesson.messages) - 1
            text = chat.render(lesson.messages[:index], follow_up if last else None)
            new = text.removeprefix(before)
            prompt = chat.encode(new)
            reply = chat.reply(message, new, prompt).tolist()
            before = f"{text}{message.content}{tokenizer.END}"
            ids += prompt + reply
            learned += [False] * len(prompt) + [index in lesson.learned] * len(reply)
        return ids, learned


def batches(
    encode: LessonEncoder, course: Course, rows: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """An endless stream of batches: rows of tokens with several lessons each, one per segment.

    `learned_BxL` marks the tokens whose successor is a target.
    """
    rng = random.Random(f"lessons {seed}")
    pending: list[tuple[list[int], list[bool]]] = []
    while True:
        shape = (rows, course.row)
        batch = {
            "id_BxL": np.zeros(shape, np.int32),
            "position_BxL": np.zeros(shape, np.int32),
            "segment_BxL": np.zeros(shape, np.int32),
            "learned_BxL": np.zeros(shape, bool),
        }
        used, count = [0] * rows, [0] * rows
        unplaced: list[tuple[list[int], list[bool]]] = []
        while len(unplaced) < 16:  # so many lessons did not fit: the rows are full
            ids, learned = pending.pop() if pending else encode(course.draw(rng))
            fits = [row for row in range(rows) if used[row] + len(ids) <= course.row]
            if not fits:
                if len(ids) <= course.row:
                    unplaced.append((ids, learned))
                continue
            row = max(fits, key=used.__getitem__)
            at = slice(used[row], used[row] + len(ids))
            used[row] += len(ids)
            count[row] += 1
            batch["id_BxL"][row, at] = ids
            batch["position_BxL"][row, at] = range(len(ids))
            batch["segment_BxL"][row, at] = count[row]
            batch["learned_BxL"][row, at] = [*learned[1:], False]
        pending = unplaced
        yield batch


def prefetch(source: Iterator[Any], depth: int = 8) -> Iterator[Any]:
    """`source`, computed ahead in a thread."""
    line: queue.Queue[Any] = queue.Queue(depth)

    def fill() -> None:
        for item in source:
            line.put(item)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield line.get()


# ---------------------------------------------------------------------------- the model


def loss_of(model: Decoder, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Mean cross-entropy of the learned tokens, nats."""
    id_BxL = batch["id_BxL"]
    stream = TokenStream(
        id_BxL, batch["position_BxL"], batch["segment_BxL"], jnp.zeros_like(id_BxL)
    )
    hidden_BxLxD, _ = model.apply({"params": params}, stream)
    # Logits of the learned tokens only: about a quarter, so room for 0.4 always suffices.
    room = int(id_BxL.size * 0.4)
    (index_R,) = jnp.nonzero(batch["learned_BxL"].reshape(-1), size=room, fill_value=-1)
    target_R = jnp.roll(id_BxL, -1, axis=1).reshape(-1)[index_R]
    hidden_RxD = hidden_BxLxD.reshape(-1, hidden_BxLxD.shape[-1])[index_R]
    logits_RxV = hidden_RxD @ head_DxV(params)
    loss_R = optax.softmax_cross_entropy_with_integer_labels(logits_RxV, target_R)
    counts_R = index_R >= 0
    return jnp.where(counts_R, loss_R, 0).sum() / counts_R.sum()


OPTIMISER = optax.chain(
    optax.clip_by_global_norm(CLIP_NORM),
    optax.inject_hyperparams(optax.adamw)(0.0, b1=0.9, b2=0.98, weight_decay=DECAY),
)


def train_step(
    model: Decoder, params: Any, state: Any, batch: dict[str, jax.Array], lr: jax.Array
) -> tuple[Any, Any, jax.Array]:
    """One update; (params, state, loss)."""
    loss, grads = jax.value_and_grad(functools.partial(loss_of, model))(params, batch)
    state[1].hyperparams["learning_rate"] = lr
    updates, state = OPTIMISER.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def save(params: Any, out: Path) -> None:
    """Parameters as params.npz, the names joined by "/"."""
    flat = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
    with places.writing(out / "params.npz") as file:
        np.savez(file, **flat)


def load(run: Path) -> Any:
    """The parameters that `save` wrote, or those of a Hugging Face directory. Raises InputError
    where there are neither."""
    if (run / SINGLE).is_file():
        return hf.load_params(run, read_config(CONFIG), "float32")
    try:
        with np.load(run / "params.npz") as file:
            flat = {name: jnp.asarray(file[name]) for name in file.files}
    except (OSError, ValueError) as error:
        raise InputError(f"{run}: no parameters to read ({error}). Train there first.") from error
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def export(run: Sequence[Path], out: Path) -> None:
    """The newest parameters of a run as a Hugging Face directory, float32; of several, their mean
    (a model soup, arXiv 2203.05482). Raises InputError where they have different tokenizers."""
    first = run[0]
    for other, name in itertools.product(run[1:], tokenizer.FILES):
        if (other / name).read_bytes() != (first / name).read_bytes():
            raise InputError(
                f"{other / name} differs from that of {first}: the mean of their weights would be "
                "none of a model. Train both with --start-from one run."
            )
    raw, config = hf.load_config(first)
    params = jax.tree.map(lambda *arrays: sum(arrays) / len(arrays), *map(load, run))
    hf.export(
        params,
        config,
        raw,
        out,
        dtype="float32",
        source_dir=first,
        tokenizer_dir=first,
        eos_ids=[CONFIG["eos_token_id"]],
    )


def train(
    out: Path,
    *,
    steps: int,
    rows: int,
    lr: float,
    seed: int,
    save_every: int,
    minutes: float = math.inf,
    start_from: Path | None = None,
    course: str = "hindsight",
) -> None:
    """The whole run; writes tokenizer, config.json and params.npz (every `save_every` steps) to
    `out`, and a line to train.jsonl every 100 steps.

    The learning rate follows a cosine down to zero over `steps`, or over `minutes` if those end
    first. `start_from` is a run or an exported model to continue from, with a new optimiser.
    `course` is a name in COURSES.
    """
    out.mkdir(parents=True, exist_ok=True)
    if start_from:  # its parameters require its tokenizer
        for name in tokenizer.FILES:
            if (start_from / name).resolve() != (out / name).resolve():
                shutil.copyfile(start_from / name, out / name)
    else:
        tokenizer.write_tokenizer(out, seed)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    attention = backend_for("auto", sharding.make_mesh())
    model = Decoder(read_config(CONFIG), attention=attention)
    params = load(start_from) if start_from else model.fresh_params(seed)
    state = OPTIMISER.init(params)
    step = jax.jit(functools.partial(train_step, model), donate_argnums=(0, 1))
    source = prefetch(batches(LessonEncoder(out), COURSES[course], rows, seed))
    start, tokens, losses, share, index = time.time(), 0, [], 0.0, 0
    while share < 1:
        index += 1
        seconds = time.time() - start
        share = min(1.0, max(index / steps, seconds / 60 / minutes))
        rate = lr * min(1.0, index / WARMUP) * (1 + math.cos(math.pi * share)) / 2
        batch = next(source)
        tokens += int((batch["segment_BxL"] > 0).sum())
        params, state, loss = step(params, state, batch, jnp.float32(rate))
        losses.append(loss)
        if index % 100 == 0 or share == 1:
            line = {
                "step": index,
                "loss": round(float(np.mean(jax.device_get(losses))), 4),
                "lr": round(rate, 6),
                "tokens": tokens,
                "seconds": round(time.time() - start),
            }
            losses = []
            print(json.dumps(line), flush=True)
            with open(out / "train.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if index % save_every == 0 or share == 1:
            save(params, out)
