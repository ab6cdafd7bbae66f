"""Servers that speak vLLM's or SGLang's protocol over our own sampler.

Weights are read from the directory that an update names, half of the matrices at a time: a fault
"half update" or "die updating" leaves the other half as it was, as it may happen to the originals.
Finished completions are cached by prompt, settings and seed, and the cache is dropped when the
protocol says so: what it stands for is a prefix cache that must not outlive the weights.
"""

from __future__ import annotations

import dataclasses
import threading
import urllib.parse
from pathlib import Path
from typing import Any

import jax

from interact_jax.generation import local
from interact_jax.generation.engine import Completion, Request, SamplingParams
from interact_jax.opening import OpenedModel, open_model
from tests.servers import serving
from tests.servers.serving import Refused, Service


class Model(Service):
    """What both servers have: a model that samples, takes weights, and can be paused."""

    unset: str | None = None  # the label of weights that nobody named

    def __init__(self, folder: Path, opened: OpenedModel):
        super().__init__(folder)
        self.opened, self.params, self.label = opened, opened.load(), self.unset
        self.engine = local.open_engine(opened, self.params, rows=1)
        self.cache: dict[Any, Completion] = {}
        self.sampling = threading.Lock()  # one at a time
        self.state = threading.Condition()
        self.paused, self.active, self.aborts = False, 0, 0

    def complete(self, ids: list[int], sampling: dict[str, Any], limit: str, seed: str) -> Any:
        """(completion, label), or None for a request that was aborted on its way."""
        params = SamplingParams(sampling[limit], sampling["temperature"])
        request = Request(tuple(ids), params, sampling[seed])
        with self.state:
            self.state.wait_for(lambda: not self.paused)
            self.active += 1
            aborts = self.aborts
        try:
            with self.sampling:
                if aborts != self.aborts:
                    return None
                label = self.label
                if request not in self.cache:
                    self.cache[request] = self.engine.sample([request])[0]
                return self.cache[request], label
        finally:
            with self.state:
                self.active -= 1
                self.state.notify_all()

    def hold(self) -> None:
        """Until there are other weights."""
        label = self.label
        with self.state:
            self.state.wait_for(lambda: self.label != label)

    def pause(self, mode: str) -> None:
        with self.state:
            self.paused = True
            self.aborts += mode == "abort"
            self.state.wait_for(lambda: not self.active)

    def resume(self) -> None:
        with self.state:
            self.paused = False
            self.state.notify_all()

    def read_weights(self, place: str) -> None:
        if not Path(place).is_absolute() or not list(Path(place).glob("*.safetensors")):
            raise Refused(400, f"no safetensors in {place}")
        new = dataclasses.replace(self.opened, files=Path(place)).load()
        fault = self.faults.due("the middle of an update").get("do")
        leaves, tree = jax.tree.flatten(new)
        old = jax.tree.leaves(self.params)
        half = len(leaves) // 2 if fault else len(leaves)
        self.params = jax.tree.unflatten(tree, [*leaves[:half], *old[half:]])
        self.engine.load(self.params, 0)
        if fault == "die updating":
            serving.die()
        if fault == "half update":
            raise Refused(500, "the disk is gone")


class Vllm(Model):
    """/v1/completions, /inference/v1/generate, and what VLLM_SERVER_DEV_MODE=1 adds.

    A file "old" in its folder makes it one that does not know the versions of completions, a file
    "bare" one that was started without the development mode.
    """

    def __init__(self, folder: Path, opened: OpenedModel):
        super().__init__(folder, opened)
        self.initialised, self.updating, self.loaded = False, False, False

    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        parts = urllib.parse.urlsplit(path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        if parts.path in ("/health", "/v1/completions", "/inference/v1/generate"):
            known = {
                "/health": lambda: {},
                "/v1/completions": lambda: self.completions(body),
                "/inference/v1/generate": lambda: self.generate(body),
            }
            return known[parts.path]()
        name = parts.path.removeprefix("/")
        if (self.folder / "bare").exists() or name not in CONTROLS:
            raise Refused(404, "Not Found")
        return getattr(self, f"control_{name}")(body | query)

    def completions(self, body: dict[str, Any]) -> Any:
        choice = self.choice(body, body["prompt"])
        if "token_ids" in choice and not body.get("return_token_ids"):
            del choice["token_ids"]
        logprobs = [token["logprob"] for token in choice.pop("logprobs")["content"]]
        choice["logprobs"] = {"token_logprobs": logprobs, "tokens": [""] * len(logprobs)}
        if (self.folder / "old").exists() or not body.get("return_weight_versions"):
            choice.pop("weight_versions", None)
        return {"choices": [{**choice, "prompt_token_ids": body["prompt"]}]}

    def generate(self, body: dict[str, Any]) -> Any:
        return {"choices": [self.choice(body["sampling_params"], body["token_ids"])]}

    def choice(self, sampling: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        found = self.complete(ids, sampling, "max_tokens", "seed")
        if found is None:
            content: dict[str, Any] = {"token_ids": [], "logprobs": {"content": []}}
            return {"index": 0, "finish_reason": "abort", **content}
        completion, label = found
        return {
            "index": 0,
            "finish_reason": "stop" if completion.finished else "length",
            "token_ids": completion.ids,
            "logprobs": {"content": [{"logprob": logp} for logp in completion.logps]},
            "weight_versions": [{"version": label, "start": 0, "end": len(completion.ids)}],
        }

    def control_weight_info(self, body: dict[str, Any]) -> Any:
        return {"weight_version": self.label}

    def control_pause(self, body: dict[str, Any]) -> Any:
        self.pause(body.get("mode", "abort"))
        if body.get("mode") != "keep":
            self.cache.clear()
        return {"status": "paused"}

    def control_resume(self, body: dict[str, Any]) -> Any:
        self.resume()
        return {"status": "resumed"}

    def control_init_weight_transfer_engine(self, body: dict[str, Any]) -> Any:
        self.initialised = "init_info" in body
        return {}

    def control_start_weight_update(self, body: dict[str, Any]) -> Any:
        if self.updating or not self.initialised or not self.paused:
            raise Refused(500, "an update is under way, or cannot begin")
        self.updating, self.loaded = True, False
        return {}

    def control_update_weights(self, body: dict[str, Any]) -> Any:
        if not self.updating or self.loaded:
            raise Refused(500, "no update has begun")
        self.read_weights(body["update_info"]["path"])
        self.loaded = True
        return {}

    def control_finish_weight_update(self, body: dict[str, Any]) -> Any:
        updating, loaded = self.updating, self.loaded
        self.updating, self.loaded = False, False
        if not updating or not loaded:
            raise Refused(500, "nothing was updated")
        self.label = body.get("weight_version", self.label)
        return {}


CONTROLS = {name.removeprefix("control_") for name in vars(Vllm) if name.startswith("control_")}


class Sglang(Model):
    """/generate and the weight endpoints."""

    unset = "default"

    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        if path == "/health":
            return {}
        if path == "/generate":
            return self.generate(body)
        if path == "/model_info":
            return {"weight_version": self.label}
        if path == "/pause_generation":
            self.pause(body.get("mode", "abort"))
            return {"status": "ok"}
        if path == "/continue_generation":
            self.resume()
            return {"status": "ok"}
        if path == "/update_weights_from_disk":
            return self.update(body)
        raise Refused(404, "Not Found")

    def generate(self, body: dict[str, Any]) -> Any:
        sampling = body["sampling_params"]
        found = self.complete(body["input_ids"], sampling, "max_new_tokens", "sampling_seed")
        if found is None:
            about = {"finish_reason": {"type": "abort"}, "output_token_logprobs": []}
            return {"meta_info": {**about, "weight_version": self.label}, "output_ids": []}
        completion, label = found
        pairs = zip(completion.logps, completion.ids, strict=True)
        reason = {"type": "length", "length": sampling["max_new_tokens"]}
        if completion.finished:
            reason = {"type": "stop", "matched": completion.ids[-1]}
        about = {
            "finish_reason": reason,
            "output_token_logprobs": [[logp, token, None] for logp, token in pairs],
            "weight_version": label,
        }
        return {"meta_info": about, "output_ids": completion.ids, "text": ""}

    def update(self, body: dict[str, Any]) -> Any:
        if not self.paused and not body.get("abort_all_requests"):
            raise Refused(400, "requests are running")
        with self.sampling:
            self.read_weights(body["model_path"])
            if body.get("flush_cache", True):
                self.cache.clear()
            self.label = body.get("weight_version") or self.label
        return {"success": True, "message": "Succeeded to update model weights."}


def main() -> None:
    parser = serving.parser()
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--protocol", choices=["vllm", "sglang"], required=True)
    args = parser.parse_args()
    kind = {"vllm": Vllm, "sglang": Sglang}[args.protocol]
    serving.run(args.folder, lambda: kind(args.folder, open_model(args.model, attention="xla")))


if __name__ == "__main__":
    main()
