"""Makes the pocket model: its tokenizer, its weights, the figures of the gate.

    python launch/make_pocket.py --out interact_jax/pocket/model --steps 9000 --seed 0

Nothing is downloaded. The weights come from plain next-token training on the pocket world's
lessons, replies only. Two CPU cores need about three quarters of an hour for the shipped model.
"""

from __future__ import annotations

import argparse
import functools
import json
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax

from interact_jax.data.chat import ChatFormat
from interact_jax.models.decoder import Decoder, head_DxV
from interact_jax.models.families import read_config
from interact_jax.pocket import lessons, tokenizer
from interact_jax.schema import InputError, TokenStream

CONFIG = {
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
ROW = 112  # tokens; the longest lesson has about as many
WARMUP = 200  # steps
CLIP_NORM = 1.0
DECAY = 0.01


# ----------------------------------------------------------------------------- the data


class LessonEncoder:
    """Lessons to token ids, and which of those are learned, by the model's own chat template."""

    def __init__(self, directory: Path) -> None:
        self.chats = {name: ChatFormat.load(directory, name) for name in ("offline", "online")}

    def __call__(self, lesson: lessons.Lesson) -> tuple[list[int], list[bool]]:
        """Ids of the whole conversation up to the last EOS; True where a token is a target."""
        name, follow_up = lesson.hindsight or ("offline", None)
        chat = self.chats[name]
        ids: list[int] = []
        learned: list[bool] = []
        for index, message in enumerate(lesson.messages):
            if message.role != "assistant":
                continue
            last = index == len(lesson.messages) - 1
            text = chat.render(lesson.messages[:index], follow_up if last else None)
            prompt = chat.encode(text)
            learned += [False] * (len(prompt) - len(learned))  # the template is prefix-preserving
            reply = chat.reply(message, text, prompt)
            ids = prompt + reply
            learned += [index in lesson.learned] * len(reply)
        return ids, learned


def batches(encode: LessonEncoder, rows: int, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Rows of ROW tokens with several lessons each, a segment a lesson, without end.

    `learned_BxL` marks the tokens whose successor is a target.
    """
    rng = random.Random(f"lessons {seed}")
    waiting: list[tuple[list[int], list[bool]]] = []
    while True:
        shape = (rows, ROW)
        batch = {
            "id_BxL": np.zeros(shape, np.int32),
            "position_BxL": np.zeros(shape, np.int32),
            "segment_BxL": np.zeros(shape, np.int32),
            "learned_BxL": np.zeros(shape, bool),
        }
        used, count, left = [0] * rows, [0] * rows, []
        while len(left) < 16:  # so many in a row found no place: the rows are full
            ids, learned = waiting.pop() if waiting else encode(lessons.draw_lesson(rng))
            fits = [row for row in range(rows) if used[row] + len(ids) <= ROW]
            if not fits:
                if len(ids) <= ROW:
                    left.append((ids, learned))
                continue
            row = max(fits, key=used.__getitem__)
            at = slice(used[row], used[row] + len(ids))
            used[row] += len(ids)
            count[row] += 1
            batch["id_BxL"][row, at] = ids
            batch["position_BxL"][row, at] = range(len(ids))
            batch["segment_BxL"][row, at] = count[row]
            batch["learned_BxL"][row, at] = [*learned[1:], False]
        waiting = left
        yield batch


def ahead(source: Iterator[Any], depth: int = 8) -> Iterator[Any]:
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
    # Logits of the learned tokens only: a quarter of all, so room for 0.4 is never short.
    room = int(id_BxL.size * 0.4)
    (index_R,) = jnp.nonzero(batch["learned_BxL"].reshape(-1), size=room, fill_value=-1)
    target_R = jnp.roll(id_BxL, -1, axis=1).reshape(-1)[index_R]
    hidden_RxD = hidden_BxLxD.reshape(-1, hidden_BxLxD.shape[-1])[index_R]
    logits_RxV = hidden_RxD @ head_DxV(params)
    loss_R = optax.softmax_cross_entropy_with_integer_labels(logits_RxV, target_R)
    counts_R = index_R >= 0
    return jnp.where(counts_R, loss_R, 0).sum() / counts_R.sum()


def optimiser_for(lr: float, steps: int) -> optax.GradientTransformation:
    """AdamW with clipping, linear warm-up and a cosine down to nothing."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, lr, min(WARMUP, steps // 5), steps, 0.0)
    return optax.chain(
        optax.clip_by_global_norm(CLIP_NORM),
        optax.adamw(schedule, b1=0.9, b2=0.98, weight_decay=DECAY),
    )


def train_step(model, optimiser, params, state, batch):
    """One update; (params, state, loss)."""
    loss, grads = jax.value_and_grad(functools.partial(loss_of, model))(params, batch)
    updates, state = optimiser.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


def init_params(model: Decoder, seed: int) -> Any:
    """Random parameters."""
    one = jnp.ones((1, 1), jnp.int32)
    stream = TokenStream(one, one * 0, one, one * 0)
    return model.init(jax.random.key(seed), stream)["params"]


def save(params: Any, out: Path) -> None:
    """Parameters as params.npz, the names joined by "/"."""
    flat = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
    np.savez(out / "params.npz", **flat)


def train(out: Path, steps: int, rows: int, lr: float, seed: int, save_every: int) -> Any:
    """The whole run; a line in out/train.jsonl every 100 steps."""
    model = Decoder(read_config(CONFIG))
    params = init_params(model, seed)
    optimiser = optimiser_for(lr, steps)
    state = optimiser.init(params)
    step = jax.jit(functools.partial(train_step, model, optimiser), donate_argnums=(0, 1))
    source = ahead(batches(LessonEncoder(out), rows, seed))
    start, tokens, losses = time.time(), 0, []
    for index in range(1, steps + 1):
        batch = next(source)
        tokens += int((batch["segment_BxL"] > 0).sum())
        params, state, loss = step(params, state, batch)
        losses.append(loss)
        if index % 100 == 0 or index == steps:
            seconds = time.time() - start
            line = {
                "step": index,
                "loss": round(float(np.mean(jax.device_get(losses))), 4),
                "tokens": tokens,
                "tokens_per_second": round(tokens / seconds),
                "seconds": round(seconds),
            }
            losses = []
            print(json.dumps(line), flush=True)
            with open(out / "train.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if index % save_every == 0 or index == steps:
            save(params, out)
    return params


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the model")
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--rows", type=int, default=32, help=f"rows of {ROW} tokens in a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500, help="steps")
    args = parser.parse_args()
    try:
        tokenizer.write_tokenizer(args.out, args.seed)
        (args.out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
        train(args.out, args.steps, args.rows, args.lr, args.seed, args.save_every)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
