"""Pushing an export to the Hugging Face hub: `export.py --push-to-hub NAME`."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from interact_jax import card
from interact_jax.models import hf
from interact_jax.schema import InputError

PATIENCE = 10  # seconds to wait for the hub's first answer
STALE_WEIGHTS = [
    "*.safetensors",
    "*.safetensors.index.json",
]  # weights that an earlier push had in other files


def check_name(name: str) -> None:
    """Raise InputError for an invalid repository name."""
    try:
        huggingface_hub.utils.validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"--push-to-hub {name}: expected NAME or OWNER/NAME ({reason})."
        ) from error


def push(out: Path | str, name: str, private: bool = False) -> str:
    """Upload the files of the export `out` and its card; returns their address.

    Other files in the directory are not uploaded. Raises InputError where the hub refuses or does
    not answer, within seconds and before anything is sent.
    """
    out, endpoint = Path(out), huggingface_hub.constants.ENDPOINT
    api = huggingface_hub.HfApi(library_name="interact_jax")
    token = huggingface_hub.get_token()
    if token is None:
        raise _refusal(out, name, "there is no token. `hf auth login`, or set HF_TOKEN")
    try:
        hf_raise_for_status(
            get_session().get(
                f"{endpoint}/api/whoami-v2",
                headers=build_hf_headers(token=token),
                timeout=PATIENCE,
            )
        )
        repo_id = api.create_repo(name, private=private, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repo_id,
            folder_path=out,
            allow_patterns=[*hf.files_of(out), card.NAME],
            delete_patterns=STALE_WEIGHTS,
            commit_message="Export of interact_jax",
        )
    except Exception as error:  # from the hub, the network, or any library in between
        reason = getattr(error, "server_message", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split())
        raise _refusal(out, name, f"{endpoint} did not take it ({reason})") from error
    return f"{endpoint}/{repo_id}"


def _refusal(out: Path, name: str, why: str) -> InputError:
    return InputError(
        f"--push-to-hub {name}: {why}. The export is complete in {out}; once that is fixed, the "
        f"same command pushes it, or `hf upload {name} {out}`."
    )
