"""Metrics: equal to scikit-learn's, on all rows and on resampled ones; intervals that cover; undefined ones that say so."""

import math

import numpy as np
import pytest
from sklearn import metrics as sk

from mlworkbench.core.errors import Cancelled, InputError, NotFound
from mlworkbench.core.jobs import Job, listening
from mlworkbench.evaluation.metrics import (
    METRICS,
    applicable,
    baseline_outcome,
    check_metric,
    families_of,
    metric_table,
    metric_values,
    resample_metrics,
)
from mlworkbench.evaluation.outcomes import Outcome, read_outcome

LABELS = {2: ("no", "yes"), 4: ("ant", "bee", "cat", "dog")}


def draw(task: str, rows: int = 400, seed: int = 0, ties: bool = False, positive: int = 1) -> Outcome:
    """A plausible outcome; `ties` rounds the scores to a tenth."""
    random = np.random.default_rng(seed)
    if task == "regression":
        truth = random.normal(50, 10, rows)
        return Outcome(task, truth, truth + random.normal(0, 4, rows))
    count = 2 if task == "binary" else 4
    truth = random.integers(0, count, rows)
    raw = random.normal(size=(rows, count))
    raw[np.arange(rows), truth] += 1.2
    scores = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    scores = scores.round(1) / scores.round(1).sum(axis=1, keepdims=True) if ties else scores
    code = positive if task == "binary" else None
    return Outcome(task, truth, scores.argmax(axis=1), LABELS[count], code, scores)


def expected(outcome: Outcome) -> dict[str, float]:
    """scikit-learn's own calls, written out once more and independently."""
    truth, predicted, scores = outcome.truth, outcome.predicted, outcome.scores
    if outcome.task == "regression":
        return {
            "rmse": sk.root_mean_squared_error(truth, predicted), "mae": sk.mean_absolute_error(truth, predicted),
            "median_absolute_error": sk.median_absolute_error(truth, predicted), "r2": sk.r2_score(truth, predicted),
            "mape": sk.mean_absolute_percentage_error(truth, predicted),
        }
    binary = outcome.task == "binary"
    of = {"pos_label": outcome.positive} if binary else {"average": "macro"}
    found = {
        "accuracy": sk.accuracy_score(truth, predicted), "mcc": sk.matthews_corrcoef(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "precision": sk.precision_score(truth, predicted, **of), "recall": sk.recall_score(truth, predicted, **of),
        "f1": sk.f1_score(truth, predicted, **of), "log_loss": sk.log_loss(truth, scores),
    }
    if binary:
        positive = (truth == outcome.positive).astype(int)
        p = scores[:, outcome.positive]
        return found | {
            "roc_auc": sk.roc_auc_score(positive, p), "average_precision": sk.average_precision_score(positive, p),
            "brier": sk.brier_score_loss(positive, p),
        }
    return found | {"roc_auc": sk.roc_auc_score(truth, scores, multi_class="ovr"), "brier": sk.brier_score_loss(truth, scores)}


def take(outcome: Outcome, rows: np.ndarray) -> Outcome:
    scores = None if outcome.scores is None else outcome.scores[rows]
    return Outcome(outcome.task, outcome.truth[rows], outcome.predicted[rows], outcome.classes, outcome.positive, scores)


CASES = [
    ("binary", False, 1), ("binary", True, 1), ("binary", False, 0), ("multiclass", False, 1), ("multiclass", True, 1),
    ("regression", False, 1),
]


@pytest.mark.parametrize(("task", "ties", "positive"), CASES)
def test_every_value_equals_scikit_learn(task, ties, positive):
    outcome = draw(task, ties=ties, positive=positive)
    ours, theirs = metric_values(outcome), expected(outcome)
    assert set(ours) == set(theirs) == {m.name for m in METRICS.values() if task in m.tasks}
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, rel=1e-12), name


@pytest.mark.parametrize(("task", "ties", "positive"), CASES)
def test_weights_give_what_scikit_learn_gives_on_the_drawn_rows(task, ties, positive):
    outcome = draw(task, rows=300, ties=ties, positive=positive)
    random = np.random.default_rng(5)
    for _ in range(20):
        rows = random.integers(0, 300, 300)
        theirs = expected(take(outcome, rows))
        weights = np.bincount(rows, minlength=300).astype(float)
        ours = {n: v for names, read in families_of(outcome) for n, v in zip(names, read(weights), strict=True)}
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, abs=1e-12, rel=1e-12), name


def test_a_class_that_is_never_seen_counts_as_scikit_learn_counts_it():
    outcome = draw("multiclass")
    kept = (outcome.truth != 3) & (outcome.predicted != 3)
    without = take(outcome, np.flatnonzero(kept))
    read = families_of(without)[0][1]
    of = {"average": "macro", "zero_division": 0}
    theirs = [sk.precision_score(without.truth, without.predicted, **of), sk.f1_score(without.truth, without.predicted, **of)]
    ours = read(np.ones(without.rows))
    assert [ours[2], ours[4]] == pytest.approx(theirs, abs=1e-12)


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    outcome = draw("binary")
    first, again, other = (metric_table(outcome, resamples=50, seed=s) for s in (1, 1, 2))
    assert first.equals(again) and not first.equals(other)


def test_a_wider_confidence_gives_a_wider_interval():
    outcome = draw("regression")
    narrow, wide = (metric_table(outcome, confidence=c, resamples=200) for c in (0.8, 0.99))
    assert ((wide["high"] - wide["low"]) > (narrow["high"] - narrow["low"])).all()


def test_no_resamples_means_no_intervals_but_the_same_values():
    outcome = draw("binary")
    bare = metric_table(outcome, resamples=0)
    assert bare["low"].isna().all() and bare["high"].isna().all()
    assert bare["value"].equals(metric_table(outcome, resamples=20)["value"])


def test_one_class_makes_ranking_undefined_and_nothing_else():
    outcome = read_outcome("binary", ["yes"] * 30, ["yes", "no"] * 15, classes=["no", "yes"],
                           probabilities=np.tile([[0.3, 0.7], [0.6, 0.4]], (15, 1)))
    table = metric_table(outcome, resamples=20).set_index("metric")
    assert table.loc["roc_auc"].isna().all()
    assert table.loc["accuracy", "value"] == 0.5


def test_a_constant_target_makes_r2_undefined_under_resampling():
    table = metric_table(Outcome("regression", np.ones(20), np.ones(20)), resamples=20).set_index("metric")
    assert math.isnan(table.loc["r2", "low"]) and table.loc["rmse", "value"] == 0


def test_a_single_row_has_values_and_no_traceback():
    table = metric_table(Outcome("regression", np.array([3.0]), np.array([2.0])), resamples=5).set_index("metric")
    assert table.loc["mae", "value"] == 1 and math.isnan(table.loc["r2", "value"])


def test_decision_scores_rank_but_have_no_log_loss():
    outcome = draw("binary")
    decided = Outcome("binary", outcome.truth, outcome.predicted, outcome.classes, 1, outcome.scores * 7, probable=False)
    assert "roc_auc" in applicable(decided) and "log_loss" not in applicable(decided)
    assert metric_values(decided)["roc_auc"] == metric_values(outcome)["roc_auc"]


def test_labels_alone_have_label_metrics_only():
    outcome = draw("binary")
    bare = Outcome("binary", outcome.truth, outcome.predicted, outcome.classes, 1)
    assert set(metric_values(bare)) == {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "mcc"}


def test_the_baseline_ranks_by_chance_and_explains_nothing():
    assert metric_values(baseline_outcome(draw("binary")))["roc_auc"] == 0.5
    assert metric_values(baseline_outcome(draw("regression")))["r2"] == pytest.approx(0, abs=1e-12)


def test_progress_is_reported_and_cancel_stops_the_resampling():
    outcome, heard = draw("binary", 2000), []
    with listening(lambda text, fraction: heard.append(fraction)):
        resample_metrics(outcome, 100)
    assert heard[0] == 0 and 0.9 < heard[-1] < 1 and heard == sorted(heard)
    job = Job(resample_metrics, outcome=outcome, resamples=1_000_000).start()
    job.cancel()
    assert job.wait(10) and job.state == "cancelled" and isinstance(job.error, Cancelled)


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="confidence"):
        metric_table(draw("binary"), confidence=95)
    with pytest.raises(InputError, match="resamples must be 0 or more"):
        metric_table(draw("binary"), resamples=-1)
    with pytest.raises(NotFound, match="Did you mean 'average_precision'"):
        check_metric("avg_precision", METRICS)
