"""Train a model on conversations.

    python launch/train.py --config configs/quickstart.py --workdir runs/quickstart
    python launch/train.py --config configs/offline_wildfeedback.py --workdir runs/wild \
        --config.model.path=Qwen/Qwen3-0.6B --config.optim.lr=1e-6

Any setting of the config file can be set by --config.KEY=VALUE. Started again with the same
workdir, a run goes on where its last checkpoint is.
"""

from __future__ import annotations

import argparse
import logging

from interact_jax import cli, config, evaluation, report, train
from interact_jax.data.tree import picture


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings, with their defaults:\n" + config.describe(),
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE.py", help="settings of the run")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where the run writes")
    parser.add_argument("--quiet", action="store_true", help="errors and the summary only")
    known, rest = parser.parse_known_args(argv)
    unknown = [argument for argument in rest if not argument.startswith("--config.")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    level = logging.ERROR if known.quiet else logging.INFO
    cli.log_to_stderr(level)

    cfg = config.load(known.config, rest)
    run = train.start(cfg, known.workdir)
    folder = run.workdir / "report"
    if not known.quiet:
        print(picture(run.dataset.trees[0][0], run.chat.decode))
    before = evaluation.measure_run(run, folder / "before.json")
    train.loop(run)
    summary = train.finish(run)
    after = evaluation.measure_run(run, folder / "after.json")
    page = report.write_run_report(
        folder,
        metrics_file=run.workdir / "metrics.jsonl",
        before=before,
        after=after,
    )
    print("\n".join([*report.before_after_lines(before, after), *summary, f"report: {page}"]))


if __name__ == "__main__":
    cli.run(main)
