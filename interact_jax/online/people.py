"""The users of an online run, opened: scripted ones, and personas that a model plays.

    schedule = parse_schedule(cfg.online.users, cfg.online.schedule)
    users = open_users(cfg, schedule, prompts, mesh=mesh)        by name, of all phases
    want = phase_at(schedule, interactions).user_of(number)
    reactions = react(users, [Talk(id, messages, want.name), ...])

What a user says depends on the run's seed, its name, the conversation's id and turn: nothing of it
has to be kept over a restart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from interact_jax.data.thinking import CLOSED
from interact_jax.endpoints.chat import PROVIDERS, open_chat
from interact_jax.generation.chat_model import ChatModel, LocalChatModel
from interact_jax.generation.for_all import chat_for_all
from interact_jax.generation.local import open_engine
from interact_jax.generation.sampler import Sampler
from interact_jax.online.prompts import PromptSource
from interact_jax.online.schedule import Schedule, wants_of
from interact_jax.opening import open_model
from interact_jax.pocket.reading import request_in
from interact_jax.schema import InputError
from interact_jax.users import PlayedUser, ScriptedUser, User
from interact_jax.users.played import token_limit

POLICY = "policy"  # the model that is trained plays the personas


def open_users(
    cfg: Any,
    schedule: Schedule,
    prompts: PromptSource,
    *,
    mesh: jax.sharding.Mesh | None = None,
    policy: LocalChatModel | None = None,
) -> dict[str, User]:
    """Everybody in the schedule, by name. Models are loaded and endpoints opened here.

    `policy` is the model in training, over the engine that samples from it: it plays the personas
    if `online.user_model` says so in as many words, for such users change as it learns. Raises
    InputError where settings do not go together, and where scripted users could not judge what is
    asked.
    """
    wants = wants_of(schedule)
    played = [want.name for want in wants.values() if want.persona]
    scripted = [want.name for want in wants.values() if not want.persona]
    _check_settings(cfg, played, scripted)
    if scripted:
        _check_prompts(prompts, scripted[0])
    model: ChatModel | None = None
    limits: dict[str, Any] = {}
    if played:
        model, limits = _open_player(cfg, mesh, policy)
    users: dict[str, User] = {}
    for name, want in wants.items():
        if want.persona:
            assert model is not None
            users[name] = PlayedUser(name, want.persona, model, cfg.seed, **limits)
        else:
            users[name] = ScriptedUser(
                name,
                dict(want.preference),
                cfg.seed,
                leaves=cfg.online.leaves,
                related=not cfg.online.unrelated,
            )
    return users


def _check_settings(cfg: Any, played: list[str], scripted: list[str]) -> None:
    given = cfg.online.user_model
    if played and not given:
        raise InputError(
            f"online.users: {played[0]} is a persona, and nobody plays it. Set online.user_model "
            "to a model, openai:MODEL or anthropic:MODEL."
        )
    if given and not played:
        raise InputError(
            f"online.user_model={given}: there is nobody to play, for {scripted[0]} is a user of "
            "the pocket world, who needs no model. Leave it out, or name a persona in online.users."
        )
    for name in ("unrelated", "leaves"):
        if played and cfg.online[name]:
            raise InputError(
                f"online.{name}={cfg.online[name]}: only users of the pocket world do that, and "
                f"{played[0]} is a persona. Leave it out."
            )


def _check_prompts(prompts: PromptSource, name: str) -> None:
    for where, messages in prompts.training_prompts():
        if request_in(messages) is None:
            raise InputError(
                f"{where}: no request of the pocket world, such as 'Capital of France?', and user "
                f"{name} can judge replies to nothing else. Set online.prompts=pocket, or name a "
                "persona in online.users."
            )


def _open_player(
    cfg: Any, mesh: jax.sharding.Mesh | None, policy: LocalChatModel | None
) -> tuple[ChatModel, dict[str, Any]]:
    """The model that plays personas, and the limit of its context as PlayedUser takes it."""
    given = cfg.online.user_model
    if given.partition(":")[0] in PROVIDERS:
        return chat_for_all(lambda: open_chat(given)), {}
    if given == POLICY:
        if policy is None:
            raise InputError("online.user_model=policy: this program trains no model.")
        return policy, _limits(policy)
    # Of the run's type, because the precision of matrix products is one for the whole process.
    opened = open_model(given, mesh=mesh, dtype=cfg.model.dtype, attention=cfg.attention)
    context = opened.config.max_positions
    engine = open_engine(opened, opened.load())
    model = LocalChatModel(given, engine, opened.chat, context, CLOSED)
    return model, _limits(model)


def _limits(model: LocalChatModel) -> dict[str, Any]:
    return {} if model.context is None else token_limit(model.chat, model.context)


def samplers_of(users: Mapping[str, User]) -> Iterator[Sampler]:
    """The samplers of this process that play users."""
    for user in users.values():
        model = user.model if isinstance(user, PlayedUser) else None
        if isinstance(model, LocalChatModel) and isinstance(model.engine, Sampler):
            yield model.engine
