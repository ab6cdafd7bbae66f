"""vLLM's server as an engine.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config '{"backend": "disk"}'

Completions come from `/v1/completions` (prompt ids in, `return_token_ids`), or from
`/inference/v1/generate`, which needs `--enable-scale-out`. The server reports raw log-probabilities
unless it was started with another `--logprobs-mode`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from interact_jax.endpoints.retrying import Failed
from interact_jax.generation.engine import Request
from interact_jax.generation.server_engine import Drawn, ServerEngine
from interact_jax.schema import InputError

COMPLETIONS, GENERATE = "/v1/completions", "/inference/v1/generate"
ABSENT = (404, 405)  # statuses of endpoints that a server does not have


class VllmEngine(ServerEngine):
    """See the module and ServerEngine. `model` is the name that it was started with."""

    remedy = (
        "vLLM must be started with VLLM_SERVER_DEV_MODE=1 and "
        """--weight-transfer-config '{"backend": "disk"}'."""
    )

    def __init__(self, *given: Any, model: str, route: str = COMPLETIONS, **options: Any):
        super().__init__(*given, **options)
        if route not in (COMPLETIONS, GENERATE):
            raise InputError(f"route={route!r}: expected {COMPLETIONS} or {GENERATE}.")
        self.model, self.route = model, route

    def _draw(self, request: Request, limit: int) -> Drawn:
        sampling: dict[str, Any] = {
            **self._sampling(request),
            "max_tokens": limit,
            "top_k": request.params.top_k,
            "seed": request.seed,
            "logprobs": 0,  # those of the sampled tokens alone
        }
        prompt = list(request.ids)
        if self.route == GENERATE:
            body: dict[str, Any] = {"token_ids": prompt, "sampling_params": sampling}
        else:
            body = {"prompt": prompt, **sampling}
            body |= {"return_token_ids": True, "return_weight_versions": True}
        answer = self.server.post(self.route, {"model": self.model, **body})
        try:
            (choice,) = answer["choices"]
            if choice.get("prompt_token_ids") not in (None, prompt):
                raise Failed(f"{self.name}: took other prompt ids than it was given", again=False)
            return Drawn(
                [int(token) for token in choice["token_ids"]],
                _logprobs(choice["logprobs"]),
                str(choice["finish_reason"]),
                tuple(str(span["version"]) for span in choice.get("weight_versions") or ()),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Failed(
                f"{self.name}: an answer of another form ({error!r}); expected one choice with "
                "token_ids, logprobs and finish_reason",
                again=False,
            ) from error

    def _update(self, path: Path, label: str) -> None:
        post = self.server.post
        post("/pause?mode=wait", {})  # which also drops the prefix cache
        with contextlib.suppress(Failed):
            # An update that a killed client began, or that failed, would be in the way. Closing it
            # gives its weights no new label, and nothing is sampled before the next ones are there.
            post("/finish_weight_update", {})
        post("/init_weight_transfer_engine", {"init_info": {}})
        post("/start_weight_update", {})
        post("/update_weights", {"update_info": {"path": str(path)}})
        post("/finish_weight_update", {"weight_version": label})
        post("/resume", {})

    def _label(self) -> str:
        try:
            return str(self.server.get("/weight_info").get("weight_version"))
        except Failed as failure:
            if failure.status in ABSENT and self.weights is None:
                return ""  # it cannot take weights, and need not
            raise


def _logprobs(given: dict[str, Any]) -> list[float]:
    """From the forms of both routes: completions' and chats'."""
    if "token_logprobs" in given:
        return [float(logprob) for logprob in given["token_logprobs"]]
    return [float(token["logprob"]) for token in given["content"]]
