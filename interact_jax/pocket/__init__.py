"""The pocket world and the models that ship with the project (`model.path=pocket`, or
`pocket-talks`)."""

from __future__ import annotations

from pathlib import Path

MODEL = Path(__file__).parent / "model"  # Hugging Face directory, with tokenizer
LOGS = Path(__file__).parent / "logs.jsonl.gz"  # conversations of users who share a preference
