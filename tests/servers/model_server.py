"""A chat endpoint that speaks OpenAI's protocol over our own sampler: what a model says there is
what it says in this process. Requests are answered one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from interact_jax.generation.chat_model import LocalChatModel
from interact_jax.generation.engine import SamplingParams
from interact_jax.generation.local import open_engine
from interact_jax.opening import open_model
from interact_jax.schema import Message
from tests.servers import serving
from tests.servers.chat_server import OPENAI
from tests.servers.serving import Refused, Service


class Chat(Service):
    def __init__(self, folder: Path, name: str):
        super().__init__(folder)
        model = open_model(name, attention="xla")
        self.engine = open_engine(model, model.load(), rows=1)
        self.model = LocalChatModel(name, self.engine, model.chat, model.config.max_positions)
        self.answering = threading.Lock()

    def answer(self, method: str, path: str, body: dict[str, Any], handler: Any) -> Any:
        if path == "/health":
            return {}
        if path != OPENAI:
            raise Refused(404, f"no such page: {path}")
        dialogue = [Message(each["role"], each["content"]) for each in body["messages"]]
        params = SamplingParams(body["max_tokens"], body["temperature"])
        with self.answering:
            (answer,) = self.model.answer([dialogue], params, [body["seed"]])
        if answer.error:
            raise Refused(400, answer.error)
        ended = answer.completion is not None and answer.completion.finished
        message = {"role": "assistant", "content": answer.text}
        reason = "stop" if ended or not answer.text else "length"
        return {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        }


def main() -> None:
    parser = serving.parser()
    parser.add_argument("--model", default="pocket")
    args = parser.parse_args()
    serving.run(args.folder, lambda: Chat(args.folder, args.model))


if __name__ == "__main__":
    main()
