"""Win rates from AlpacaEval's annotation files: plain, and controlled for length.

    annotations = read_annotations("results/mine/annotations.json")
    gamed, difficulty = read_gamed("df_gamed.csv")
    win_rate(annotations)                             {"win_rate": 31.2, "standard_error": 1.5, ..}
    control_length(annotations, difficulty, gamed).figures()

The length-controlled win rate is that of AlpacaEval 2 (Dubois et al. 2024, arXiv 2404.04475): the
preference for a model's output over the baseline's is regressed on

    tanh(difference of lengths / its standard deviation), the instruction's difficulty, a constant

and predicted for equal lengths. The difficulties, and judgements of the baseline made short and
long, which hold the regression in place, come from AlpacaEval's files (`df_gamed.csv`,
`instruction_difficulty.csv`): they are measured on the whole leaderboard and cannot be made here.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interact_jax.data.messages import Fault, require
from interact_jax.leaderboards.formats import FaultAt, read_objects
from interact_jax.leaderboards.logistic import fit_by_folds, logistic
from interact_jax.schema import InputError

GAMED_WEIGHT = 0.2 / 2  # of a judgement of the baseline made short, or long
EXPECTED = "expected an annotation of AlpacaEval: instruction, output_1, output_2, preference"
EXTREME = 10.0  # per cent: AlpacaEval warns where length control changes more


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Judgements on a model's outputs (2) against a baseline's (1), in file order.

    `preference_N` is for the model: 0 to 1, NaN where the judge gave none; `length_N` is the length
    of the baseline's output minus that of the model's, in characters.
    """

    model: str
    baseline: str
    instructions: tuple[str, ...]
    preference_N: np.ndarray
    length_N: np.ndarray
    model_length: float  # mean, in characters
    source: str


@dataclasses.dataclass(frozen=True)
class Gamed:
    """Judgements of the baseline made short and long: AlpacaEval's `df_gamed.csv`."""

    preference_N: np.ndarray
    length_N: np.ndarray  # already divided by its standard deviation
    difficulty_N: np.ndarray


@dataclasses.dataclass(frozen=True)
class Controlled:
    """The fit: `weights` by the names of their features, the penalty's `C`, and the predicted
    preference [N] for every instruction at equal lengths."""

    weights: Mapping[str, float]
    C: float
    predicted_N: np.ndarray
    design: str

    def figures(self) -> dict[str, Any]:
        """In per cent. The standard error is AlpacaEval's: over instructions, for this fit."""
        return {
            "length_controlled_win_rate": 100 * float(self.predicted_N.mean()),
            "length_controlled_standard_error": 100 * standard_error(self.predicted_N),
            "length_controlled_design": self.design,
            "length_controlled_weights": dict(self.weights),
        }


# ------------------------------------------------------------------------------------- reading


def read_annotations(path: str | Path) -> Annotations:
    """AlpacaEval's annotations.json. Raises InputError, with file and line; also where the file has
    more than one model or baseline."""
    rows, first = [], ""
    for line, where in read_objects(path, EXPECTED):
        with FaultAt(where, EXPECTED):
            rows.append((*(require(line, key, str) for key in TEXTS), _preference(line)))
        first = first or where
        if rows[-1][:2] != rows[0][:2]:
            raise InputError(
                f"{where}: {rows[-1][1]!r} against {rows[-1][0]!r}, but {first} is {rows[0][1]!r} "
                f"against {rows[0][0]!r}. Expected one model and one baseline in a file."
            )
    if not rows:
        raise InputError(f"{path}: no annotation in it.")
    baselines, models, instructions, outputs_1, outputs_2, preferences = zip(*rows, strict=True)
    lengths_1, lengths_2 = (np.array([len(text) for text in x]) for x in (outputs_1, outputs_2))
    return Annotations(
        models[0],
        baselines[0],
        instructions,
        np.array(preferences, float),
        (lengths_1 - lengths_2).astype(float),
        float(lengths_2.mean()),
        str(path),
    )


TEXTS = ("generator_1", "generator_2", "instruction", "output_1", "output_2")


def _preference(line: Mapping[str, Any]) -> float:
    """From 1 (the baseline's) to 2 (the model's), 1.5 or 0 a tie, null or NaN none -> 0 to 1."""
    value = line.get("preference", "")
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault("wrong type", f"'preference' is {value!r}, expected a number from 1 to 2")
    if value == 0 or math.isnan(value):
        return 0.5 if value == 0 else math.nan
    if not 1 <= value <= 2:
        raise Fault("bad preference", f"{value!r}, expected a number from 1 to 2, or 0 for a tie")
    return float(value) - 1


def read_gamed(path: str | Path) -> tuple[Gamed, np.ndarray]:
    """AlpacaEval's df_gamed.csv: the judgements, and the difficulty of every instruction by its
    number. Raises InputError, with file and line."""
    names = ("preference", "index", "std_delta_len", "instruction_difficulty")
    rows = _read_csv(path, names)
    if (rows[:, 1] != rows[:, 1].round()).any() or rows[:, 1].min() < 0:
        raise InputError(f"{path}: index: expected whole numbers from 0.")
    by_number = dict(zip(rows[:, 1].astype(int)[::-1], rows[::-1, 3], strict=True))
    if sorted(by_number) != list(range(len(by_number))):
        raise InputError(f"{path}: index: expected every number from 0 to {max(by_number)}.")
    difficulty = np.array([by_number[number] for number in range(len(by_number))])
    return Gamed(rows[:, 0], rows[:, 2], rows[:, 3]), difficulty


def read_difficulty(path: str | Path) -> np.ndarray:
    """AlpacaEval's instruction_difficulty.csv: a difficulty for every instruction, in order."""
    return _read_csv(path, ("instruction_difficulty",))[:, 0]


def _read_csv(path: str | Path, names: Sequence[str]) -> np.ndarray:
    """Columns [rows, names] of finite numbers. Raises InputError, with file and line."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read ({reason}). Expected AlpacaEval's CSV file with the columns "
            f"{', '.join(names)}."
        ) from None
    header = lines[0] if lines else []
    if missing := [name for name in names if name not in header]:
        raise InputError(f"{path}:1: no column {missing[0]!r}; expected {', '.join(names)}.")
    columns = [header.index(name) for name in names]
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            values = [float(line[column]) for column in columns]
        except (ValueError, IndexError):
            values = [math.nan]
        if not all(map(math.isfinite, values)):
            raise InputError(f"{path}:{number}: expected numbers in {', '.join(names)}.")
        rows.append(values)
    if not rows:
        raise InputError(f"{path}: no row in it.")
    return np.array(rows)


# ------------------------------------------------------------------------------------- figures


def standard_error(values_N: np.ndarray) -> float:
    """Of the mean; 0 for a single value."""
    return float(values_N.std(ddof=1) / len(values_N) ** 0.5) if len(values_N) > 1 else 0.0


def win_rate(annotations: Annotations) -> dict[str, Any]:
    """The mean preference in per cent, over the judgements that there are, and their counts.
    `discrete_win_rate` rounds every judgement to a win, a loss or a tie."""
    preference_N = annotations.preference_N
    judged_N = preference_N[~np.isnan(preference_N)]
    if not len(judged_N):
        raise InputError(f"{annotations.source}: no annotation has a preference.")
    wins, losses = int((judged_N > 0.5).sum()), int((judged_N < 0.5).sum())
    ties = len(judged_N) - wins - losses
    return {
        "win_rate": 100 * float(judged_N.mean()),
        "standard_error": 100 * standard_error(judged_N),
        "discrete_win_rate": 100 * (wins + ties / 2) / len(judged_N),
        "wins": wins,
        "losses": losses,
        "ties": ties,
        "judged": len(judged_N),
        "not_judged": len(preference_N) - len(judged_N),
        "mean_length": annotations.model_length,
    }


def control_length(
    annotations: Annotations,
    difficulty_N: np.ndarray | None = None,
    gamed: Gamed | None = None,
) -> Controlled:
    """The length-controlled preferences, with as much of AlpacaEval's design as is given: with
    `difficulty_N` (of the instructions of the file, in its order) and `gamed` all of it. A model
    that is the baseline itself is preferred in half of the cases."""
    N = len(annotations.preference_N)
    names = ["length", *(["difficulty"] if difficulty_N is not None else []), "model"]
    design = "AlpacaEval 2" if gamed is not None else f"without gamed rows ({', '.join(names)})"
    if annotations.model == annotations.baseline:
        return Controlled(dict.fromkeys(names, 0.0), math.nan, np.full(N, 0.5), design)
    if gamed is not None and difficulty_N is None:
        raise ValueError("gamed rows have difficulties, so the instructions need theirs")
    spread = annotations.length_N.std(ddof=1) if N > 1 else 0.0
    length_N = np.tanh(annotations.length_N / spread) if spread else np.zeros(N)
    others = [] if difficulty_N is None else [difficulty_N]
    X_NxK = np.stack([length_N, *others, np.ones(N)], axis=1)
    judged_N = ~np.isnan(annotations.preference_N)
    X, p, weight = X_NxK[judged_N], annotations.preference_N[judged_N], np.ones(judged_N.sum())
    if gamed is not None:
        zeros = np.zeros(len(gamed.length_N))  # the constant is the model's, not the baseline's
        rows = np.stack([np.tanh(gamed.length_N), gamed.difficulty_N, zeros], axis=1)
        X, p = np.concatenate([rows, X]), np.concatenate([gamed.preference_N, p])
        weight = np.concatenate([np.full(len(rows), GAMED_WEIGHT), weight])
    w_K, C = fit_by_folds(X, p, weight)
    X_NxK[:, 0] = 0
    weights = dict(zip(names, map(float, w_K), strict=True))
    return Controlled(weights, C, logistic(X_NxK @ w_K), design)


def in_order(
    annotations: Annotations, difficulty: np.ndarray, instructions: Sequence[str] | None = None
) -> np.ndarray:
    """The difficulties of a file's instructions [N]. They are numbered in the order of the
    benchmark: that of the file, or that of `instructions`. Raises InputError where that cannot be.
    """
    if instructions is None:
        if len(annotations.instructions) != len(difficulty):
            raise InputError(
                f"{annotations.source}: {len(annotations.instructions)} annotations, but there are "
                f"{len(difficulty)} difficulties, in the benchmark's order. Give the benchmark's "
                "instructions with --questions."
            )
        return difficulty
    if len(instructions) != len(difficulty):
        raise InputError(
            f"--questions: {len(instructions)} instructions, but there are {len(difficulty)} "
            "difficulties; expected one each."
        )
    numbers: dict[str, int] = {}
    for number, instruction in enumerate(instructions):
        numbers.setdefault(instruction, number)
    unknown = [text for text in annotations.instructions if text not in numbers]
    if unknown:
        raise InputError(
            f"{annotations.source}: {len(unknown)} instructions are not among --questions, the "
            f"first is {json.dumps(unknown[0][:60])}."
        )
    return difficulty[[numbers[text] for text in annotations.instructions]]


def compare(
    a: Annotations, b: Annotations, controlled: tuple[Controlled, Controlled]
) -> dict[str, Any]:
    """How model a differs from model b, judged against the same baseline on the same instructions:
    differences of the win rates (per cent, with the standard error of paired differences), and the
    win rate of a over b that the two fits predict at equal lengths."""
    if a.baseline != b.baseline or a.instructions != b.instructions:
        raise InputError(
            f"{a.source} and {b.source}: judged against {a.baseline!r} and {b.baseline!r}; "
            "expected one baseline, and the same instructions in the same order."
        )
    plain_N = a.preference_N - b.preference_N
    plain_N = plain_N[~np.isnan(plain_N)]
    of_a, of_b = controlled
    between_N = of_a.predicted_N - of_b.predicted_N
    odds_N = _log_odds(of_a.predicted_N) - _log_odds(of_b.predicted_N)
    return {
        "models": [a.model, b.model],
        "win_rate_difference": 100 * float(plain_N.mean()) if len(plain_N) else math.nan,
        "win_rate_difference_error": 100 * standard_error(plain_N) if len(plain_N) else math.nan,
        "both_judged": len(plain_N),
        "length_controlled_difference": 100 * float(between_N.mean()),
        "length_controlled_difference_error": 100 * standard_error(between_N),
        "length_controlled_win_rate_over": 100 * float(logistic(odds_N).mean()),
    }


def _log_odds(p_N: np.ndarray) -> np.ndarray:
    return np.log(p_N) - np.log1p(-p_N)
