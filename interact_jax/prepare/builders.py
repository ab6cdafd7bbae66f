"""Builders of TFDS that prepare logs as `launch/prepare_data.py` does, without TensorFlow.

    import interact_jax.prepare.builders
    builder = tfds.builder("interact_wildchat", data_dir="data")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="dumps"))
    builder.as_data_source(split="train")

They read everything in `manual_dir`, or what a `LogsConfig` names, with its filters and splits:

    tfds.builder("interact_logs", config=LogsConfig(name="shop", path="logs/*.jsonl.gz"))

A builder that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from interact_jax.data.array_records import FEATURES
from interact_jax.prepare.describing import RELEASE, TEMPLATE
from interact_jax.prepare.filters import parse_filter
from interact_jax.prepare.job import Settings
from interact_jax.prepare.pipeline import Left, prepare
from interact_jax.prepare.splits import DEFAULT, format_splits, parse_splits
from interact_jax.schema import InputError

DOWNLOAD = "Download the files, and give their directory as manual_dir."


@dataclasses.dataclass
class LogsConfig(tfds.core.BuilderConfig):
    """Which logs, and what becomes of them; "" is `manual_dir`."""

    path: str = ""
    filters: tuple[str, ...] = ()
    splits: str = format_splits(DEFAULT)
    on_error: str = "stop"
    processes: int = 1


class _Logs(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What the builders have in common; each has the format that its logs are in."""

    VERSION = tfds.core.Version(RELEASE)
    MANUAL_DOWNLOAD_INSTRUCTIONS: ClassVar[str] = DOWNLOAD
    format: ClassVar[str] = "auto"
    pkg_dir_path = epath.Path(__file__).parent  # where TFDS looks for metadata of its own
    code_path = None  # TFDS finds it by importlib_resources, which it does not install

    def __init__(self, *, file_format: Any = "array_record", **given: Any):
        super().__init__(file_format=file_format, **given)

    def _info(self) -> Any:
        kinds = {"text": tfds.features.Text, "int32": _whole_number}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Conversations ({self.format}) prepared by interact_jax.",
            features=tfds.features.FeaturesDict({n: kinds[k]() for n, k in FEATURES.items()}),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        config = self.builder_config or LogsConfig(name="default")
        settings = Settings(
            data=config.path or str(dl_manager.manual_dir),
            name=self.name,
            format=self.format,
            on_error=config.on_error,
            filters=tuple(config.filters),
            splits=parse_splits(config.splits),
        )
        unfinished = Path(f"{self.data_dir}").parent / ".preparing"
        card = prepare(settings, _filters(settings), unfinished, processes=config.processes)
        if isinstance(card, Left):
            raise InputError(f"{unfinished}: other machines are still at work there.")
        shutil.copytree(unfinished, self.data_dir, copy_function=_link, dirs_exist_ok=True)
        shutil.rmtree(unfinished)
        self.info.set_splits(tfds.core.SplitDict(self._splits(card)))

    def _splits(self, card: dict[str, Any]) -> list[Any]:
        return [
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[shard["records"] for shard in split["shards"]],
                num_bytes=split["bytes"],
                filename_template=tfds.core.ShardedFileTemplate(
                    data_dir=self.data_path,
                    dataset_name=self.name,
                    split=name,
                    filetype_suffix="array_record",
                    template=TEMPLATE,
                ),
            )
            for name, split in card["splits"].items()
        ]


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where there are none: a builder that is killed meanwhile
    loses nothing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _whole_number() -> Any:
    return tfds.features.Scalar(dtype=np.int32)


def _filters(settings: Settings) -> list[Any]:
    if not settings.filters:
        return []
    return [parse_filter(text) for text in settings.filters]


class InteractWildchat(_Logs):
    """allenai/WildChat, exported as JSON lines."""

    name = "interact_wildchat"
    format = "wildchat"


class InteractWildfeedback(_Logs):
    """microsoft/WildFeedback, exported as JSON lines."""

    name = "interact_wildfeedback"
    format = "wildfeedback"


class InteractLmsys(_Logs):
    """lmsys/lmsys-chat-1m, exported as JSON lines: conversations as in WildChat."""

    name = "interact_lmsys"
    format = "wildchat"


class InteractLogs(_Logs):
    """Logs of one's own, in any format that is read."""

    name = "interact_logs"
