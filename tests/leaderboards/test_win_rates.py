"""Win rates against plain scikit-learn, on data of AlpacaEval's form."""

import json
import math

import numpy as np
import pytest
import sklearn
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold

from interact_jax.leaderboards import win_rates
from interact_jax.leaderboards.logistic import CHOICES, FOLDS, fit, fit_by_folds, folds
from interact_jax.schema import InputError

N = 161  # judgements; a number that folds do not divide


@pytest.fixture(scope="module", autouse=True)
def metadata_routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def annotations_file(path, seed=0, model="mine", baseline="base", judged=True, bias=0.0):
    """Judgements that prefer long outputs; some missing, some ties."""
    rng = np.random.default_rng(seed)
    lines = []
    for n in range(N):
        lengths = rng.integers(5, 60, 2)
        chance = 1 / (1 + math.exp(-bias - 0.05 * (lengths[1] - lengths[0]) - rng.normal()))
        preference = 1 + chance
        if n % 20 == 3:
            preference = 0.0 if n % 40 == 3 else 1.5
        if judged and n % 50 == 7:
            preference = None if n % 100 == 7 else math.nan
        lines.append(
            {
                "instruction": f"Do {n}.",
                "generator_1": baseline,
                "generator_2": model,
                "output_1": "é" * int(lengths[0]),
                "output_2": "b" * int(lengths[1]),
                "preference": preference,
                "annotator": "judge",
            }
        )
    path.write_text(json.dumps(lines))
    return path


def gamed_file(path, seed=1):
    rng = np.random.default_rng(seed)
    rows = ["preference,index,std_delta_len,instruction_difficulty,not_gamed_baseline,model"]
    difficulty = rng.normal(size=N)
    for model, sign in (("concise", 1), ("verbose", -1)):
        for n in range(N):
            length = sign * abs(rng.normal())
            chance = 1 / (1 + math.exp(1.2 * length + 0.3 * difficulty[n] + rng.normal()))
            rows.append(f"{chance},{n},{length},{difficulty[n]},False,{model}")
    path.write_text("\n".join(rows) + "\n")
    return path


def by_scikit_learn(X, p, weight):
    """Coefficients and C of AlpacaEval's regression, to the optimum."""

    def log_loss(y_true, y_predicted, p, weight):
        p = np.where(y_true == 1, p, 1 - p)
        return -np.mean(weight * (p * np.log(y_predicted) + (1 - p) * np.log(1 - y_predicted)))

    scorer = make_scorer(log_loss, response_method="predict_proba", greater_is_better=False)
    model = LogisticRegressionCV(
        cv=GroupKFold(5),
        scoring=scorer.set_score_request(p=True, weight=True),
        l1_ratios=(1,),
        solver="liblinear",
        fit_intercept=False,
        random_state=123,
        tol=1e-10,
        max_iter=100_000,
        use_legacy_attributes=False,
    ).set_fit_request(sample_weight=True)
    model.fit(
        np.concatenate([X, X]),
        np.repeat([1, 0], len(p)),
        sample_weight=np.concatenate([weight * p, weight * (1 - p)]),
        groups=np.tile(np.arange(len(p)), 2),
        p=np.concatenate([p, 1 - p]),
        weight=np.tile(weight, 2),
    )
    return model.coef_[0], float(np.ravel(model.C_)[0])


def design(lines, difficulty=None):
    """Features of every judgement, from the file's lines alone."""
    lengths = np.array([len(x["output_1"]) - len(x["output_2"]) for x in lines], float)
    columns = [np.tanh(lengths / np.std(lengths, ddof=1))]
    columns += [] if difficulty is None else [difficulty]
    return np.stack([*columns, np.ones(len(lines))], axis=1)


def preferences(lines):
    values = [x["preference"] for x in lines]
    values = np.array([math.nan if value is None else value for value in values])
    return np.where(values == 0, 1.5, values) - 1


@pytest.mark.parametrize("parts", ["all", "difficulty", "minimal"])
def test_the_length_controlled_win_rate_is_that_of_scikit_learn(parts, tmp_path):
    path = annotations_file(tmp_path / "a.json")
    lines, annotations = json.loads(path.read_text()), win_rates.read_annotations(path)
    gamed, difficulty = win_rates.read_gamed(gamed_file(tmp_path / "gamed.csv"))
    if parts == "minimal":
        difficulty = None
    X, p = design(lines, difficulty), preferences(lines)
    judged = ~np.isnan(p)
    rows, values, weight = X[judged], p[judged], np.ones(judged.sum())
    if parts == "all":
        extra = [np.tanh(gamed.length_N), gamed.difficulty_N, 0 * gamed.length_N]
        rows = np.concatenate([np.stack(extra, axis=1), rows])
        values = np.concatenate([gamed.preference_N, values])
        weight = np.concatenate([np.full(2 * N, 0.1), weight])
    coefficients, C = by_scikit_learn(rows, values, weight)
    even = X.copy()
    even[:, 0] = 0
    expected = 1 / (1 + np.exp(-even @ coefficients))

    found = win_rates.control_length(annotations, difficulty, gamed if parts == "all" else None)
    assert pytest.approx(C) == found.C
    assert list(found.weights.values()) == pytest.approx(coefficients, abs=1e-6)
    np.testing.assert_allclose(found.predicted_N, expected, atol=1e-7)
    figures = found.figures()
    assert figures["length_controlled_win_rate"] == pytest.approx(100 * expected.mean(), abs=1e-5)
    error = 100 * expected.std(ddof=1) / math.sqrt(N)
    assert figures["length_controlled_standard_error"] == pytest.approx(error, abs=1e-5)
    assert (figures["length_controlled_design"] == "AlpacaEval 2") == (parts == "all")


def test_rows_are_left_out_together_as_in_scikit_learn():
    rows = np.arange(17)
    for fold, (_, left_out) in enumerate(GroupKFold(FOLDS).split(rows, groups=rows)):
        assert left_out.tolist() == np.flatnonzero(folds(len(rows)) == fold).tolist()


def test_the_penalty_sets_weights_to_zero_as_in_scikit_learn():
    rng = np.random.default_rng(2)
    X, weight = rng.normal(size=(40, 3)), rng.random(40)
    p = 1 / (1 + np.exp(-X @ [1.5, -0.4, 0.1]))
    at_zero = [int((fit(X, p, weight, C) == 0).sum()) for C in CHOICES]
    assert at_zero[0] == 3 and at_zero[-1] == 0
    assert at_zero == sorted(at_zero, reverse=True)
    coefficients, C = by_scikit_learn(X, p, weight)
    w, chosen = fit_by_folds(X, p, weight)
    assert chosen == pytest.approx(C)
    np.testing.assert_allclose(w, coefficients, atol=1e-6)


def test_a_fit_is_an_optimum_even_where_labels_can_be_told_apart():
    """The likelihood's slope is that of the penalty, or less where a weight is 0."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        X = rng.normal(size=(6, 2)) * rng.choice([0.1, 1, 5, 30], (6, 1))
        p, C = (rng.random(6) > 0.5).astype(float), rng.choice([1, 100, 1e4])
        w = fit(X, p, np.ones(6), C)
        slope = C * X.T @ (np.exp(-np.logaddexp(0, -X @ w)) - p)
        assert np.all(abs(slope + np.sign(w))[w != 0] < 1e-3)
        assert np.all(abs(slope)[w == 0] < 1 + 1e-3)


def test_the_plain_win_rate_and_its_error(tmp_path):
    path = annotations_file(tmp_path / "a.json")
    values = preferences(json.loads(path.read_text()))
    judged = values[~np.isnan(values)]
    figures = win_rates.win_rate(win_rates.read_annotations(path))
    assert figures["win_rate"] == pytest.approx(100 * judged.mean())
    error = 100 * judged.std(ddof=1) / math.sqrt(len(judged))
    assert figures["standard_error"] == pytest.approx(error)
    wins, losses = (judged > 0.5).sum(), (judged < 0.5).sum()
    assert (figures["wins"], figures["losses"]) == (wins, losses)
    assert figures["ties"] == 8 and figures["not_judged"] == 4 and figures["judged"] == N - 4
    assert figures["discrete_win_rate"] == pytest.approx(100 * (wins + 4) / len(judged))


def test_control_takes_the_advantage_of_length_away(tmp_path):
    """The model's outputs are longer, and the judge likes that; at equal lengths it is a draw."""
    path = annotations_file(tmp_path / "a.json", judged=False)
    lines = json.loads(path.read_text())
    for line in lines:
        line["output_2"] += "b" * 30
        longer = len(line["output_2"]) - len(line["output_1"])
        line["preference"] = 1 + 1 / (1 + math.exp(-0.1 * longer))
    path.write_text(json.dumps(lines))
    annotations = win_rates.read_annotations(path)
    assert win_rates.win_rate(annotations)["win_rate"] > 75
    figures = win_rates.control_length(annotations).figures()
    assert 45 < figures["length_controlled_win_rate"] < 60


def test_the_baseline_against_itself_is_a_draw(tmp_path):
    path = annotations_file(tmp_path / "a.json", model="base")
    found = win_rates.control_length(win_rates.read_annotations(path))
    assert found.figures()["length_controlled_win_rate"] == 50


def test_two_models_are_compared_by_their_pairs(tmp_path):
    paths = [
        annotations_file(tmp_path / f"{name}.json", seed, name, bias=bias)
        for name, seed, bias in (("good", 0, 1.0), ("bad", 0, -1.0))
    ]
    a, b = map(win_rates.read_annotations, paths)
    fits = win_rates.control_length(a), win_rates.control_length(b)
    figures = win_rates.compare(a, b, fits)
    pairs = a.preference_N - b.preference_N
    pairs = pairs[~np.isnan(pairs)]
    assert figures["win_rate_difference"] == pytest.approx(100 * pairs.mean())
    error = 100 * pairs.std(ddof=1) / math.sqrt(len(pairs))
    assert figures["win_rate_difference_error"] == pytest.approx(error)
    odds = fits[0].weights["model"] - fits[1].weights["model"]
    over = 100 / (1 + math.exp(-odds))
    assert figures["length_controlled_win_rate_over"] == pytest.approx(over)
    back = win_rates.compare(b, a, fits[::-1])
    assert back["length_controlled_win_rate_over"] == pytest.approx(100 - over)
    other = win_rates.read_annotations(
        annotations_file(tmp_path / "c.json", 0, "third", baseline="another")
    )
    with pytest.raises(InputError, match="judged against 'base' and 'another'"):
        win_rates.compare(a, other, (fits[0], fits[0]))


def test_difficulties_belong_to_instructions(tmp_path):
    annotations = win_rates.read_annotations(annotations_file(tmp_path / "a.json"))
    difficulty = np.arange(N + 2.0)
    with pytest.raises(InputError, match=f"{N} annotations, but there are {N + 2}"):
        win_rates.in_order(annotations, difficulty)
    instructions = [f"Do {n}." for n in reversed(range(N + 2))]
    found = win_rates.in_order(annotations, difficulty, instructions)
    assert found.tolist() == [N + 1 - n for n in range(N)]
    with pytest.raises(InputError, match=r"2 instructions are not among .*\"Do 0\.\""):
        win_rates.in_order(annotations, difficulty[:N], instructions[:N])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preference": 3}, "bad preference: 3"),
        ({"preference": "2"}, "'preference' is '2'"),
        ({"preference": True}, "'preference' is True"),
        ({"output_2": None}, "'output_2' is None"),
        ({"generator_2": "another"}, "'another' against 'base', but .*item 1.* is 'mine'"),
    ],
)
def test_bad_annotations_are_refused_with_their_place(change, message, tmp_path):
    path = annotations_file(tmp_path / "a.json")
    lines = json.loads(path.read_text())
    lines[4] |= change
    path.write_text(json.dumps(lines))
    with pytest.raises(InputError, match=rf"a\.json:1 \(item 5\): .*{message}"):
        win_rates.read_annotations(path)


def test_bad_tables_are_refused_with_their_line(tmp_path):
    path = gamed_file(tmp_path / "gamed.csv")
    lines = path.read_text().splitlines()
    for row, message in (
        ("x,1,2,3,False,m", r":3: expected numbers"),
        ("0.5,1", r":3: expected numbers"),
        ("0.5,1,nan,0,False,m", r":3: expected numbers"),
        (f"0.5,{N + 1},1,0,False,m", "expected every number from 0"),
        ("0.5,1.5,1,0,False,m", "whole numbers"),
    ):
        path.write_text("\n".join([*lines[:2], row, *lines[2:]]))
        with pytest.raises(InputError, match=message):
            win_rates.read_gamed(path)
    path.write_text("index,preference\n")
    with pytest.raises(InputError, match=r"\(No such file or directory\)\. Expected AlpacaEval's"):
        win_rates.read_gamed(tmp_path / "absent.csv")
    with pytest.raises(InputError, match=r":1: no column 'std_delta_len'"):
        win_rates.read_gamed(path)
