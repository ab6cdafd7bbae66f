"""A model of this process as a judge; its weights are loaded when the first answer is asked for."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from interact_jax.data.thinking import CLOSED
from interact_jax.generation.chat_model import Answer, LocalChatModel
from interact_jax.generation.engine import Engine, SamplingParams
from interact_jax.judges.model_judge import SETTINGS, ModelJudge, break_special_tokens
from interact_jax.judges.sides import ModelSide
from interact_jax.schema import InputError, Message


class LoadedAtUse:
    """A chat model over an engine that is given its weights before its first answer: where all
    verdicts are on disk, none are read."""

    def __init__(self, side: ModelSide, engine: Engine, kind: str = CLOSED):
        """`kind` as of LocalChatModel. Closed: a model that reasons would spend the few tokens of
        its answer on that."""
        self.name, self._side, self._engine, self._kind = side.name, side, engine, kind

    def answer(
        self,
        dialogues: Sequence[Sequence[Message]],
        params: SamplingParams,
        seeds: Sequence[int] | None = None,
    ) -> list[Answer]:
        return self._model.answer(dialogues, params, seeds)

    @functools.cached_property
    def _model(self) -> LocalChatModel:
        self._engine.load(self._side.load(), self._engine.version + 1)
        model = self._side.model
        context = model.config.max_positions
        return LocalChatModel(self.name, self._engine, model.chat, context, kind=self._kind)


def local_judge(
    side: ModelSide,
    engine: Engine,
    persona: str = "",
    tokens: int = SETTINGS["judge_tokens"].default,
) -> ModelJudge:
    """A judge with the weights of `side`. Raises InputError where its chat template shows no system
    message, which has the judge's instructions."""
    chat = side.model.chat
    if not chat.abilities.system:
        raise InputError(
            f"--judge-model {side.name}: its chat template shows no system message, so it would "
            "not see what to judge by. Take another model."
        )
    return ModelJudge(
        LoadedAtUse(side, engine),
        persona,
        tokens=tokens,
        settings={"model": side.digest},
        clean=functools.partial(break_special_tokens, chat=chat),
    )
