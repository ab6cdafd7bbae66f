"""The same work on parts under Apache Beam, for clusters that share a file system.

    from apache_beam.options.pipeline_options import PipelineOptions
    prepare_with_beam(settings, filters, Path("/shared/data"), options=PipelineOptions([...]))

    pip install 'interact_jax[beam]'

What Beam distributes is numbers of parts, never conversations: workers read and write files, and a
part that is done twice is the same twice. So nothing is grouped or shuffled by Beam, and a pipeline
that failed goes on where it stopped. Without `options` it runs in this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interact_jax.prepare import deciding, pipeline, reading, writing
from interact_jax.prepare.describing import About
from interact_jax.prepare.filtering import Filter, Survey
from interact_jax.prepare.job import Job, Settings
from interact_jax.prepare.parts import Part
from interact_jax.prepare.pipeline import Left, Share
from interact_jax.schema import InputError


def prepare_with_beam(
    settings: Settings,
    filters: Sequence[Filter | Survey],
    out: Path,
    *,
    about: About | None = None,
    tokenizer: str = "",
    options: Any = None,
) -> dict[str, Any] | Left:
    """`pipeline.prepare`, where Beam reads and writes the parts: the same bytes. Raises InputError
    as it does, and where apache_beam is not installed."""
    beam = _import_beam()
    with pipeline.holding(out, Share()) as folder:
        parts = pipeline.planned(settings, folder)
        job = Job(settings, out.absolute(), len(parts), tuple(filters), tokenizer)
        if any(not job.is_written(part.number) for part in parts):
            runner = _in_process() if options is None else None
            with beam.Pipeline(runner=runner, options=options) as root:
                _add_steps(beam, root, job, parts)
    return pipeline.prepare(settings, filters, out, about=about, tokenizer=tokenizer)


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError:
        raise InputError(
            "apache_beam is not installed: `pip install 'interact_jax[beam]'`. Without it, "
            "--process-index and --process-count share the work among machines."
        ) from None
    return apache_beam


def _in_process() -> Any:
    """The runner in this process; DirectRunner would first look for another one on the network."""
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    return FnApiRunner()


def _add_steps(beam: Any, root: Any, job: Job, parts: list[Part]) -> None:
    """Read, decide, write: each step takes a number that exists once the one before is complete."""
    every = root | "parts" >> beam.Create(parts) | "spread" >> beam.Reshuffle()
    read = every | "read" >> beam.Map(read_once, job)
    count_read = read | "count" >> beam.combiners.Count.Globally()
    decided = count_read | "decide" >> beam.Map(decide_once, job)
    _ = every | "write" >> beam.Map(write_once, job, beam.pvalue.AsSingleton(decided))


def read_once(part: Part, job: Job) -> int:
    """Read a part that is not yet read; its number."""
    if not job.was_read(part.number):
        reading.read_part(job, part)
    return part.number


def decide_once(count: int, job: Job) -> int:
    """Decide, when all parts are read, if that is not done; how many there are."""
    if count != job.parts:
        raise AssertionError(f"{count} of {job.parts} parts were read")
    unwritten = any(not job.is_written(number) for number in range(job.parts))
    if unwritten and not (job.folder / "decided.json").exists():
        deciding.decide(job)
    return count


def write_once(part: Part, job: Job, decided: int) -> int:
    """Write a part that is not yet written; its number."""
    writing.write_once(job, part.number)
    return part.number
