"""A model behind an endpoint as a judge.

    judge = remote_judge("openai:Qwen/Qwen3-8B@http://127.0.0.1:8000/v1", "Short answers, please.")

A request that fails is tried again. What is left after all tries is a FAILED verdict, which is
counted and not a tie; the same evaluation started again asks for it again.
"""

from __future__ import annotations

from interact_jax.endpoints.chat import PROVIDERS, open_chat
from interact_jax.endpoints.retrying import Patience
from interact_jax.judges.model_judge import SETTINGS, ModelJudge


def is_remote(spec: str) -> bool:
    """Whether it is of the form "PROVIDER:MODEL", which `remote_judge` takes."""
    return spec.partition(":")[0] in PROVIDERS and ":" in spec


def remote_judge(
    spec: str,
    persona: str = "",
    tokens: int = SETTINGS["judge_tokens"].default,
    patience: Patience = Patience(),  # noqa: B008  frozen
) -> ModelJudge:
    """The judge that "PROVIDER:MODEL" or "PROVIDER:MODEL@URL" names; nothing is asked yet.

    Raises InputError for a name of another form, and where the client's package or the key is
    missing.
    """
    model = open_chat(spec, patience=patience)
    endpoint = {"provider": spec.partition(":")[0], "url": model.url}
    return ModelJudge(model, persona, tokens=tokens, settings=endpoint)
