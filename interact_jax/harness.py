"""A model for the LM Evaluation Harness (`lm-eval`), over the project's scorer and sampler.

Importing this module registers it as the model `interact`; `launch/harness.py` does so and then is
lm-eval's own command:

    python launch/harness.py --model interact --model_args path=pocket --tasks my_task \\
        --include_path my_tasks

Tokens, truncation and stop texts are handled as lm-eval's Hugging Face backend does, so that both
give the same numbers for the same weights.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from interact_jax import sharding
from interact_jax.continuations import Pair, score_continuations
from interact_jax.data.templates import DEFAULTS, WITH_THINKING, ChatTemplate, Refusal
from interact_jax.generation.engine import Completion, Request, SamplingParams
from interact_jax.generation.local import ROWS, open_engine
from interact_jax.models import attention as attention_backends
from interact_jax.opening import DTYPES, open_model
from interact_jax.schema import InputError

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256  # where a task does not say, as in lm-eval
ARGUMENTS = (
    "path, dtype, tokenizer, max_length, add_bos_token, enable_thinking, rows, row_tokens, "
    "attention"
)
FLAGS = {
    "model.path": "--model_args path=",
    "model.tokenizer": "--model_args tokenizer=",
    "model.dtype": "--model_args dtype=",
    "attention": "--model_args attention=",
}
"""Arguments that stand for settings of a run, for messages that name those."""
SAMPLED_BY = {"temperature", "top_k", "top_p", "min_p"}
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "num_return_sequences": 1,
}
"""Settings of other backends that change nothing at these values."""


@register_model("interact")
class InteractLM(TemplateLM):
    """A Hugging Face directory, a hub id, a run, or "pocket", for lm-eval.

    `max_length` (tokens) limits context and continuation together, by default to the model's
    positions; `add_bos_token` overrides the tokenizer's own rule; `enable_thinking` goes to the
    chat template, None = it is not mentioned; `rows` prompts are sampled together, and rows of
    `row_tokens` are scored. The arguments that lm-eval adds are accepted: an integer `batch_size`
    above 1 stands for `rows`, `device` and `max_batch_size` mean nothing here.

    Raises InputError for arguments that do not exist or do not fit.
    """

    def __init__(
        self,
        path: str = "",
        dtype: str = "float32",
        tokenizer: str = "",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        enable_thinking: bool | None = None,
        rows: int = 0,
        row_tokens: int = 1024,
        attention: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **unknown: Any,
    ):
        super().__init__()
        if unknown or not path:
            given = f"no argument {next(iter(unknown))}" if unknown else "no path"
            raise InputError(f"--model_args: {given}. Expected path=MODEL, and of: {ARGUMENTS}.")
        _check_choice("dtype", dtype, DTYPES)
        attention_backends.SETTINGS["attention"].check("attention", attention)
        self.path, self.row_tokens = str(path), _at_least("row_tokens", row_tokens, 1)
        mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
        self.model = open_model(
            path, mesh=mesh, tokenizer=tokenizer, dtype=dtype, attention=attention
        )
        self.tokenizer = self.model.chat.tokenizer
        positions = self.model.config.max_positions
        self.max_length = (
            positions if max_length is None else _at_least("max_length", max_length, 2)
        )
        if self.max_length > positions:
            raise InputError(f"max_length={max_length}: the model has {positions} positions.")
        self._special = {} if add_bos_token is None else {"add_special_tokens": bool(add_bos_token)}
        self._template = self._chat_template(enable_thinking)
        if isinstance(batch_size, str) and batch_size.isdecimal():
            batch_size = int(batch_size)
        asked = batch_size if isinstance(batch_size, int) and batch_size > 1 else ROWS
        self.params = self.model.load()
        self.engine = open_engine(
            self.model,
            self.params,
            rows=_at_least("rows", rows, 0) or asked,
            whole_vocabulary=True,
        )

    # ---------------------------------------------------------------------------------- tokens

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's EOS."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context consists of: BOS, or EOS where the tokenizer has no BOS."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of prompts."""
        return str(self.model.tokenizer_files).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """The ids of a text, with the special tokens that the tokenizer adds by itself, unless the
        text begins with the first of them."""
        special = self._special
        if add_special_tokens is not None:
            special = {"add_special_tokens": add_special_tokens}
        elif string.startswith(self.tokenizer.decode([self.prefix_token_id])):
            special = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **special))

    # ------------------------------------------------------------------------------- likelihoods

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding would write it) of continuations."""
        for request in requests:
            if not request.args[1]:
                raise InputError(
                    f"task {request.task_name}: a choice is empty; expected some text."
                )
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], **unused: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._fit(context, continuation) for _, context, continuation in requests]
        cut = sum(len(x) < len(request[1]) for (x, _), request in zip(pairs, requests, strict=True))
        if cut:
            log.warning(
                "%d of %d contexts cut on the left, to %d tokens with their continuation",
                cut,
                len(pairs),
                self.max_length,
            )
        scores = self._score(pairs)
        for (texts, _, _), score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, score)
        return scores

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probabilities of whole texts, in windows of `max_length` where they are longer."""
        windows = [self._windows(*request.args) for request in requests]
        scores = iter(self._score([pair for pairs in windows for pair in pairs]))
        sums = [sum(logp for logp, _ in itertools.islice(scores, len(pairs))) for pairs in windows]
        for request, logp in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, logp)
        return sums

    def _windows(self, text: str) -> list[Pair]:
        ids, prefix = self.tok_encode(text), self.prefix_token_id
        windows = get_rolling_token_windows(ids, prefix, self.max_length, context_len=1)
        return [make_disjoint_window(window) for window in windows]

    def _score(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        model = self.model
        scores = score_continuations(
            model.decoder, self.params, pairs, model.mesh, row_tokens=self.row_tokens
        )
        return [(score.logp, score.greedy) for score in scores]

    def _fit(self, context: list[int], continuation: list[int]) -> Pair:
        """The pair with the context cut on the left: what the model reads is all but the last token
        of both."""
        if not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"a continuation of {len(continuation)} tokens: expected 1 to {self.max_length}."
            )
        most = self.max_length + 1 - len(continuation)
        return context[-most:], continuation

    # -------------------------------------------------------------------------------- generation

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The texts that the model writes after each context, up to a stop text."""
        asked = [self._request(n, *request.args) for n, request in enumerate(requests)]
        cut = sum(was_cut for _, was_cut in asked)
        if cut:
            log.warning("%d of %d contexts cut on the left, to leave room", cut, len(asked))
        texts = [""] * len(asked)
        bar = tqdm(total=len(asked), desc="generating", disable=disable_tqdm)

        def done(n: int, completion: Completion) -> None:
            texts[n] = self._text(completion, requests[n].args[1])
            self.cache_hook.add_partial("generate_until", requests[n].args, texts[n])
            bar.update()

        with bar:
            self.engine.sample([request for request, _ in asked], done)
        return texts

    def _request(
        self, seed: int, context: str, settings: Mapping[str, Any]
    ) -> tuple[Request, bool]:
        """What the engine is asked, and whether the context was cut."""
        params = sampling_params(settings)
        room = self.max_length - params.max_new_tokens
        if room < 1:
            raise InputError(
                f"max_gen_toks={params.max_new_tokens}: the model reads {self.max_length} tokens, "
                "which leaves none for the prompt. Set a smaller number (--gen_kwargs)."
            )
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return Request(ids[-room:], params, seed), len(ids) > room

    def _text(self, completion: Completion, settings: Mapping[str, Any]) -> str:
        # Special tokens have no text, and cannot complete a stop text.
        text = str(self.tokenizer.decode(completion.ids, skip_special_tokens=True))
        eos = self.tokenizer.decode([self.eot_token_id])
        for end in (*_stop_texts(settings), eos):
            text = text.partition(end)[0]
        return text

    # ----------------------------------------------------------------------------- chat templates

    def _chat_template(self, enable_thinking: bool | None) -> ChatTemplate:
        """The template as transformers calls it: reasoning is only mentioned where asked for."""
        tokenizer, files = self.tokenizer, self.model.tokenizer_files
        defaults = {key: value for key, value in DEFAULTS.items() if key != "enable_thinking"}
        if enable_thinking is not None:
            defaults |= dict.fromkeys(WITH_THINKING, enable_thinking)
        source, tokens = self.model.chat.template.source, tokenizer.special_tokens_map
        return ChatTemplate(source, tokens, files, defaults=defaults)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a dialogue, up to where the reply begins; or, without a generation prompt,
        up to the end of its last message, which the model goes on with.

        Where the template refuses a system message, the dialogue is rendered without one.
        """
        finished = not add_generation_prompt
        try:
            text = self._template.render(chat_history, finished=finished)
        except Refusal as refusal:
            without = [message for message in chat_history if message["role"] != "system"]
            if len(without) == len(chat_history):
                raise
            log.warning("system messages left out: %s", refusal)
            text = self._template.render(without, finished=finished)
        return _up_to(text, chat_history[-1]["content"]) if finished else text

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval notes about the model beside the results."""
        sizes = (leaf.size for leaf in jax.tree.leaves(self.params))
        dtype = str(self.model.decoder.dtype)
        return {"model_num_parameters": sum(sizes), "model_dtype": dtype}


def sampling_params(settings: Mapping[str, Any]) -> SamplingParams:
    """How a task's `generation_kwargs` are sampled. Raises InputError for those that would change
    the text and are not known here."""
    known: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), MAX_NEW_TOKENS))
    stop, limit = _stop_texts({"until": known.pop("until")}), known.pop("max_gen_toks")
    greedy = not known.pop("do_sample")
    chosen = {key: known.pop(key) for key in SAMPLED_BY & known.keys()}
    for key, value in known.items():
        if key not in NEUTRAL or value != NEUTRAL[key]:
            raise InputError(
                f"{key}={value!r} in a task's generation_kwargs: not supported. Expected until, "
                f"max_gen_toks, do_sample, {', '.join(sorted(SAMPLED_BY))}; override them by "
                "--gen_kwargs."
            )
    params = SamplingParams(limit, **({"temperature": 0.0} if greedy else chosen), stop=stop)
    params.check()
    return params


def _stop_texts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    until = settings.get("until") or []
    return tuple(filter(None, [until] if isinstance(until, str) else until))


def _up_to(text: str, last: str) -> str:
    """The rendered text up to the end of its last message, and no turn's end after it."""
    start = text.rindex(last.strip())
    whole = last.lstrip()
    kept = whole if text.startswith(whole, start) else last.strip()
    return text[: start + len(kept)]


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"--model_args: {name}={value!r}: expected one of {', '.join(choices)}.")


def _at_least(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise InputError(f"--model_args: {name}={value!r}: expected a number, at least {least}.")
    return value
