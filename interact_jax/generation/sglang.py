"""SGLang's server as an engine.

    python -m sglang.launch_server --model-path MODEL

Completions come from `/generate`. The server reports log-probabilities after the temperature, over
the whole vocabulary ("tempered"), or raw ones with SGLANG_RETURN_ORIGINAL_LOGPROB=1. It honours
seeds with `--enable-deterministic-inference` only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interact_jax.endpoints.retrying import Failed
from interact_jax.generation.engine import Request
from interact_jax.generation.server_engine import TEMPERED, Drawn, ServerEngine


class SglangEngine(ServerEngine):
    """See the module and ServerEngine."""

    remedy = "Expected SGLang's own server (python -m sglang.launch_server)."

    def __init__(self, *given: Any, logprobs: str = TEMPERED, **options: Any):
        super().__init__(*given, logprobs=logprobs, **options)

    def _draw(self, request: Request, limit: int) -> Drawn:
        sampling: dict[str, Any] = {
            **self._sampling(request),
            "max_new_tokens": limit,
            "top_k": request.params.top_k or -1,
            "sampling_seed": request.seed,
        }
        body = {
            "input_ids": list(request.ids),
            "sampling_params": sampling,
            "return_logprob": True,
            "stream": False,
        }
        answer = self.server.post("/generate", body)
        try:
            about = answer["meta_info"]
            tokens = about["output_token_logprobs"]  # (log-probability, id, text or null)
            spans = about.get("weight_versions") or ()
            labels = [span["version"] for span in spans] or [about["weight_version"]]
            return Drawn(
                [int(token[1]) for token in tokens],
                [float(token[0]) for token in tokens],
                str(about["finish_reason"]["type"]),
                tuple(map(str, labels)),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise Failed(
                f"{self.name}: an answer of another form ({error!r}); expected meta_info with "
                "output_token_logprobs, finish_reason and weight_version",
                again=False,
            ) from error

    def _update(self, path: Path, label: str) -> None:
        # Requests on their way end with "abort", and are sampled again from the new weights: kept
        # ones would go on in the middle, under the new label.
        self.server.post("/pause_generation", {"mode": "abort"})
        answer = self.server.post(
            "/update_weights_from_disk",
            {
                "model_path": str(path),
                "weight_version": label,
                "flush_cache": True,
                "abort_all_requests": True,
            },
        )
        if answer.get("success") is not True:
            raise Failed(f"{self.name}: {answer.get('message', 'no success')}", again=True)
        self.server.post("/continue_generation", {})

    def _label(self) -> str:
        return str(self.server.get("/model_info").get("weight_version"))
