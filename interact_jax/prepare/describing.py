"""What stands beside the shards: card.json and README.md for people, dataset_info.json and
features.json for TFDS. `card.json` comes last, and says that everything is there."""

from __future__ import annotations

import collections
import dataclasses
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interact_jax import __version__, places
from interact_jax.data.array_records import FEATURES
from interact_jax.data.prepared import CARD, digest_of
from interact_jax.prepare.job import VERSION, Job, read_json
from interact_jax.prepare.parts import Part
from interact_jax.prepare.readme import readme
from interact_jax.prepare.writing import HISTOGRAMS

RELEASE = "1.0.0"  # of the data, as TFDS has it: a directory is prepared once
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
FEATURE = "tensorflow_datasets.core.features."


@dataclasses.dataclass(frozen=True)
class About:
    """What the card says that decides about nothing."""

    source: str = ""  # where the logs are from
    license: str = ""


def is_described(out: Path) -> bool:
    return (out / CARD).is_file()


def describe(job: Job, parts: list[Part], about: About) -> dict[str, Any]:
    """Write the descriptions, where they are not there already; the card."""
    card = make_card(job, parts, about)
    _write(job.out / "features.json", _json(features()))
    _write(job.out / "dataset_info.json", _json(dataset_info(card)))
    _write(job.out / "README.md", readme(card))
    _write(job.out / CARD, _json(card))
    return card


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True) + "\n"


def _write(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        places.write(file, text)


# ------------------------------------------------------------------------------------- the card


def make_card(job: Job, parts: list[Part], about: About) -> dict[str, Any]:
    """Everything that was counted, summed over the parts; the sums are checked."""
    read = [read_json(job.file(part.number, "read.json")) for part in parts]
    written = [read_json(job.file(part.number, "written.json")) for part in parts]
    plan = read_json(job.folder / "plan.json")
    counted = [kind for kind in HISTOGRAMS if job.tokenizer or "token" not in kind]
    splits = {
        name: _split(name, share, [each["splits"][name] for each in written], counted)
        for name, share in job.settings.splits
    }
    filters = _filters(job, read, written)
    counts = {
        name: sum(each[name] for each in read) for name in ("records", "items", "conversations")
    }
    kept = sum(split["conversations"] for split in splits.values())
    sums = {name: _sum(each[name] for each in read) for name in ("lost", "ignored")}
    dropped = sum(sum(each["dropped"].values()) for each in filters)
    check_counts(counts, kept, dropped, sums)
    examples: dict[str, str] = {}
    for each in read:
        examples = {**each["examples"], **examples}
    return {
        "format": VERSION,
        "interact_jax": plan["interact_jax"],
        "name": job.settings.name,
        "source": about.source or job.settings.data,
        "license": about.license,
        "command": command(job),
        "settings": job.settings.to_json(),
        "inputs": [{"file": each["file"], "bytes": each["size"]} for each in plan["inputs"]],
        "parts": len(parts),
        "counts": {
            "records": counts["records"],
            "read": counts["items"],
            "conversations": counts["conversations"],
            "kept": kept,
            "dropped": dropped,
            "not_read": sum(sums["lost"].values()),
            "ignored": sum(sums["ignored"].values()),
            "renamed": sum(each["renamed"] for each in written),
        },
        "not_read": sums["lost"],
        "ignored": sums["ignored"],
        "mended": _sum(each["mended"] for each in read),
        "unused": _sum(each["unused"] for each in read),
        "examples": examples,
        "filters": filters,
        "features": FEATURES,
        "splits": splits,
        "digest": digest_of(shard for split in splits.values() for shard in split["shards"]),
    }


def check_counts(
    counts: Mapping[str, int], kept: int, dropped: int, lost: Mapping[str, Mapping[str, int]]
) -> None:
    """That what was read is what was kept, dropped or lost: a fault of ours if not. The readers
    counted what was read, the filters what they dropped, and the shards what they hold."""
    not_read = sum(sum(reasons.values()) for reasons in lost.values())
    if counts["items"] != kept + dropped + not_read:
        raise AssertionError(
            f"{counts['items']} read, but {kept} kept, {dropped} dropped, {not_read} not read"
        )


def _sum(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """By reason, the most frequent first."""
    total: collections.Counter[str] = collections.Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def _filters(job: Job, read: list[Any], written: list[Any]) -> list[dict[str, Any]]:
    """What each filter did: those that look at one conversation in the first pass, the others in
    the second."""
    found = []
    for number, each in enumerate(job.filters):
        own, key = [part["filters"][number] for part in read], str(number)
        later = [part["dropped"].get(key, {}) for part in written]
        samples: dict[str, list[Any]] = {}
        of_parts = [each["samples"] for each in own]
        of_parts += [part["samples"].get(key, {}) for part in written]
        for of_part in of_parts:
            for reason, some in of_part.items():
                kept = samples.setdefault(reason, [])
                kept += some[: job.settings.samples - len(kept)]
        found.append(
            {
                "filter": job.settings.filters[number],
                "name": each.name,
                "dropped": _sum([*(part["dropped"] for part in own), *later]),
                "changed": _sum(part["changed"] for part in own),
                "samples": dict(sorted(samples.items())),
            }
        )
    return found


def _split(name: str, share: float, shards: list[Any], counted: Sequence[str]) -> dict[str, Any]:
    """One split; `counted` names the histograms: tokens only where there is a tokenizer, and then
    of every split, also one that is empty."""
    totals = _sum(each["totals"] for each in shards)
    histograms = {
        kind: _by_size(_sum(each["histograms"][kind] for each in shards)) for kind in counted
    }
    described = [
        {key: each[key] for key in ("file", "records", "size", "digest")} for each in shards
    ]
    return {
        "share": share,
        "conversations": sum(each["records"] for each in shards),
        **{kind: totals.get(kind, 0) for kind in histograms},
        "bytes": sum(each["bytes"] for each in shards),
        "histograms": histograms,
        "digest": digest_of(described),
        "shards": described,
        "index": [each["index"] for each in shards],
    }


def _by_size(histogram: Mapping[Any, int]) -> dict[int, int]:
    return dict(sorted((int(least), number) for least, number in histogram.items()))


def command(job: Job) -> str:
    """The command that prepares the same."""
    given = job.settings
    flags = {
        "--data": given.data,
        "--out": job.out.name,
        "--name": given.name,
        "--format": given.format,
        "--on-error": given.on_error,
        "--repair": given.repair,
        "--max-bytes": str(given.max_bytes),
        "--splits": given.to_json()["splits"],
        "--part-bytes": str(given.part_bytes),
        "--samples": str(given.samples),
    }
    words = ["interact", "prepare-data"]
    for flag, value in flags.items():
        words += [flag, value]
    if given.mapping:
        words += ["--mapping", given.mapping]
    for spec in given.filters:
        words += ["--filter", spec]
    if given.tokenizer:
        words += ["--tokenizer", given.tokenizer]
    return shlex.join(words)


# ------------------------------------------------------------------------------------- for TFDS


def dataset_info(card: Mapping[str, Any]) -> dict[str, Any]:
    """The message DatasetInfo of TFDS, as JSON, whose 64-bit numbers are texts."""
    return {
        "description": f"Conversations prepared by interact_jax {__version__}, see README.md.",
        "fileFormat": "array_record",
        "moduleName": "interact_jax.prepare.builders",
        "name": card["name"],
        "redistributionInfo": {"license": card["license"]},
        "splits": [
            {
                "filepathTemplate": TEMPLATE,
                "name": name,
                "numBytes": str(split["bytes"]),
                "shardLengths": [str(shard["records"]) for shard in split["shards"]],
            }
            for name, split in card["splits"].items()
        ],
        "version": RELEASE,
    }


def features() -> dict[str, Any]:
    """The features as TFDS stores them."""
    number = {"dtype": "int32", "encoding": "none", "shape": {}}
    kinds: dict[str, dict[str, Any]] = {
        "text": {"pythonClassName": f"{FEATURE}text_feature.Text", "text": {}},
        "int32": {"pythonClassName": f"{FEATURE}scalar.Scalar", "tensor": number},
    }
    return {
        "featuresDict": {"features": {name: kinds[kind] for name, kind in FEATURES.items()}},
        "pythonClassName": f"{FEATURE}features_dict.FeaturesDict",
    }
