"""Metrics: equal to scikit-learn's, on all rows and on resampled ones; intervals that cover; undefined ones that say so."""

import math

import numpy as np
import pytest
from drawn_outcomes import draw
from sklearn import metrics as sk
from sklearn.manifold import trustworthiness

from mlworkbench.core.errors import Cancelled, InputError, NotFound
from mlworkbench.core.jobs import Job, listening
from mlworkbench.evaluation.metrics import (
    METRICS,
    applicable,
    baseline_outcome,
    check_metric,
    families_of,
    few_rows_concern,
    metric_notes,
    metric_table,
    metric_values,
    resample_metrics,
)
from mlworkbench.evaluation.outcomes import Outcome, read_outcome


def expected(outcome: Outcome) -> dict[str, float]:
    """scikit-learn's own calls, written out once more and independently."""
    return {
        "regression": expected_numbers, "multitarget": expected_numbers, "multilabel": expected_several_labels,
        "multioutput": expected_several_classes, "cluster": expected_clusters, "transform": expected_transform,
    }.get(outcome.task, expected_labels)(outcome)


def expected_numbers(outcome: Outcome) -> dict[str, float]:
    pair = outcome.truth, outcome.predicted
    columns = np.abs(np.subtract(*pair)).reshape(outcome.rows, -1).T
    return {
        "rmse": sk.root_mean_squared_error(*pair), "mae": sk.mean_absolute_error(*pair),
        "median_absolute_error": sk.median_absolute_error(*pair), "r2": sk.r2_score(*pair),
        "mape": sk.mean_absolute_percentage_error(*pair),
        "pinball_p10": sk.mean_pinball_loss(*pair, alpha=0.1), "pinball_p90": sk.mean_pinball_loss(*pair, alpha=0.9),
        "absolute_error_p90": np.mean([np.percentile(c, 90) for c in columns]),
        "absolute_error_p95": np.mean([np.percentile(c, 95) for c in columns]),
    }


def expected_labels(outcome: Outcome) -> dict[str, float]:
    truth, predicted, scores = outcome.truth, outcome.predicted, outcome.scores
    two = outcome.positive is not None
    of = {"pos_label": outcome.positive} if two else {"average": "macro"}
    found = {
        "accuracy": sk.accuracy_score(truth, predicted), "mcc": sk.matthews_corrcoef(truth, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, predicted),
        "precision": sk.precision_score(truth, predicted, **of), "recall": sk.recall_score(truth, predicted, **of),
        "f1": sk.f1_score(truth, predicted, **of),
    }
    if two:
        positive, p = (truth == outcome.positive).astype(int), scores[:, outcome.positive]
        found |= {"roc_auc": sk.roc_auc_score(positive, p), "average_precision": sk.average_precision_score(positive, p)}
    else:
        found |= {
            "roc_auc": sk.roc_auc_score(truth, scores, multi_class="ovr"),
            "average_precision": sk.average_precision_score(np.eye(scores.shape[1])[truth], scores),
        }
    if outcome.task == "outlier":
        return found | {"outlier_share": predicted.mean()}
    brier = sk.brier_score_loss(positive, p) if two else sk.brier_score_loss(truth, scores)
    return found | {"log_loss": sk.log_loss(truth, scores), "brier": brier}


def expected_several_labels(outcome: Outcome) -> dict[str, float]:
    truth, predicted, scores = outcome.truth, outcome.predicted, outcome.scores
    return {
        "exact_match": sk.accuracy_score(truth, predicted), "hamming_loss": sk.hamming_loss(truth, predicted),
        "jaccard": sk.jaccard_score(truth, predicted, average="samples", zero_division=0),
        "precision": sk.precision_score(truth, predicted, average="macro"),
        "recall": sk.recall_score(truth, predicted, average="macro"), "f1": sk.f1_score(truth, predicted, average="macro"),
        "f1_micro": sk.f1_score(truth, predicted, average="micro"), "roc_auc": sk.roc_auc_score(truth, scores),
        "average_precision": sk.average_precision_score(truth, scores),
        "label_ranking_average_precision": sk.label_ranking_average_precision_score(truth, scores),
        "log_loss": np.mean([sk.log_loss(t, s) for t, s in zip(truth.T, scores.T, strict=True)]),
        "brier": np.mean([sk.brier_score_loss(t, s) for t, s in zip(truth.T, scores.T, strict=True)]),
    }


def expected_several_classes(outcome: Outcome) -> dict[str, float]:
    pairs = list(zip(outcome.truth.T, outcome.predicted.T, strict=True))
    wet, animal = outcome.scores
    (first, _), (second, _) = pairs
    return {
        "exact_match": np.mean([tuple(t) == tuple(p) for t, p in zip(outcome.truth, outcome.predicted, strict=True)]),
        "accuracy": np.mean([sk.accuracy_score(*pair) for pair in pairs]),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(*pair) for pair in pairs]),
        "f1": np.mean([sk.f1_score(*pair, average="macro") for pair in pairs]),
        "roc_auc": (sk.roc_auc_score(first, wet[:, 1]) + sk.roc_auc_score(second, animal, multi_class="ovr")) / 2,
        "log_loss": (sk.log_loss(first, wet) + sk.log_loss(second, animal)) / 2,
        "brier": (sk.brier_score_loss(first, wet[:, 1]) + sk.brier_score_loss(second, animal)) / 2,
    }


def expected_clusters(outcome: Outcome) -> dict[str, float]:
    pair = outcome.truth, outcome.predicted
    return {
        "adjusted_rand": sk.adjusted_rand_score(*pair), "v_measure": sk.v_measure_score(*pair),
        "homogeneity": sk.homogeneity_score(*pair), "completeness": sk.completeness_score(*pair),
        "silhouette": sk.silhouette_score(outcome.features, outcome.predicted), "clusters": len(set(outcome.predicted)),
        "calinski_harabasz": sk.calinski_harabasz_score(outcome.features, outcome.predicted),
        "davies_bouldin": sk.davies_bouldin_score(outcome.features, outcome.predicted),
        "largest_cluster": max(np.bincount(outcome.predicted)) / outcome.rows,
    }


def expected_transform(outcome: Outcome) -> dict[str, float]:
    pair = outcome.features, outcome.restored
    return {
        "restored_variance": sk.r2_score(*pair, multioutput="variance_weighted"),
        "restored_rmse": math.sqrt(sk.mean_squared_error(*pair)), "finite_share": 1.0,
        "trustworthiness": trustworthiness(outcome.features, outcome.predicted, n_neighbors=5),
    }


CASES = [
    ("binary", False, 1), ("binary", True, 1), ("binary", False, 0), ("multiclass", False, 1), ("multiclass", True, 1),
    ("regression", False, 1), ("multilabel", False, 1), ("multilabel", True, 1), ("multioutput", False, 1),
    ("multioutput", True, 1), ("multitarget", False, 1), ("outlier", False, 1), ("cluster", False, 1),
    ("transform", False, 1),
]


@pytest.mark.parametrize(("task", "ties", "positive"), CASES)
def test_every_value_equals_scikit_learn(task, ties, positive):
    outcome = draw(task, ties=ties, positive=positive)
    ours, theirs = metric_values(outcome), expected(outcome)
    known = {m.name for m in METRICS.values() if task in m.tasks}
    assert set(ours) == known and known - set(theirs) <= {"calibration_error"}  # scikit-learn has none
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, rel=1e-12), name


# What looks at distances of a row's copies is defined otherwise; the number of clusters has no interval.
NOT_RESAMPLED = {"silhouette", "trustworthiness", "clusters"}


@pytest.mark.parametrize(("task", "ties", "positive"), CASES)
def test_weights_give_what_scikit_learn_gives_on_the_drawn_rows(task, ties, positive):
    outcome = draw(task, rows=300, ties=ties, positive=positive)
    families, random = families_of(outcome), np.random.default_rng(5)
    for drawn in range(20):
        rows = random.integers(0, 300, 300)
        theirs = expected(outcome.take(rows))
        weights = np.bincount(rows, minlength=300).astype(np.uint16 if drawn % 2 else float)  # both mean the same
        ours = {n: v for names, read in families for n, v in zip(names, read(weights), strict=True)}
        for name, value in theirs.items():
            if name not in NOT_RESAMPLED:
                assert ours[name] == pytest.approx(value, abs=1e-12, rel=1e-11), name


@pytest.mark.parametrize(("task", "ties", "positive"), CASES)
def test_weight_one_everywhere_gives_every_value(task, ties, positive):
    outcome = draw(task, ties=ties, positive=positive)
    ours = {n: v for names, read in families_of(outcome) for n, v in zip(names, read(np.ones(400)), strict=True)}
    values = metric_values(outcome)
    assert set(values) - set(ours) <= {"clusters"}
    for name, value in ours.items():
        assert value == pytest.approx(values[name], abs=1e-12, rel=1e-12), name


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_calibration_error_is_the_mean_gap_over_bins_of_equally_many_rows(task):
    outcome = draw(task, rows=1000)
    if task == "binary":
        said, true = outcome.positive_scores, outcome.truth == 1
    else:
        said, true = outcome.scores.max(axis=1), outcome.truth == outcome.scores.argmax(axis=1)
    order = np.argsort(said)
    parts = [order[i * 100 : (i + 1) * 100] for i in range(10)]
    gaps = [abs(true[part].mean() - said[part].mean()) for part in parts]
    assert metric_values(outcome)["calibration_error"] == pytest.approx(np.mean(gaps), abs=1e-12)


def test_a_class_that_is_never_seen_counts_as_scikit_learn_counts_it():
    outcome = draw("multiclass")
    kept = (outcome.truth != 3) & (outcome.predicted != 3)
    without = outcome.take(np.flatnonzero(kept))
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


def test_the_baseline_learns_from_the_training_rows_where_they_are_given():
    numbers = draw("regression", 50)
    assert (baseline_outcome(numbers, np.array([1.0, 3.0])).predicted == 2.0).all()
    several = baseline_outcome(draw("multitarget", 50), np.array([[1.0, 2.0, 3.0]]))
    assert several.predicted.shape == (50, 3) and several.predicted[7].tolist() == [1, 2, 3]
    two = baseline_outcome(draw("binary", 50), np.array([1, 1, 1, 0]))
    assert (two.predicted == 1).all() and two.scores.shape == (50, 2) and (two.scores == [0.25, 0.75]).all()
    four = baseline_outcome(draw("multiclass", 50), np.array([3, 3, 2]))
    assert (four.predicted == 3).all() and four.scores[0].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3])
    labels = baseline_outcome(draw("multilabel", 50), np.array([[1, 0, 0], [1, 0, 1], [1, 1, 1]]))
    assert labels.predicted[0].tolist() == [1, 0, 1] and labels.scores[0].tolist() == pytest.approx([1, 1 / 3, 2 / 3])
    with pytest.raises(InputError, match="train_truth must be of shape"):
        baseline_outcome(draw("multilabel", 50), np.array([1, 0]))


def test_classes_that_no_row_shows_are_named():
    outcome = draw("multiclass", 200)
    assert metric_notes(outcome) == ()
    (note,) = metric_notes(outcome.take(np.isin(outcome.truth, [0, 2])))
    assert note.startswith("No row is truly 'bee' or 'dog': ROC AUC") and "other 2 classes only" in note
    two = draw("binary")
    assert metric_notes(two.take(two.truth == 0))[0].startswith("No row is truly 'yes': ROC AUC is undefined")
    labels = draw("multilabel")
    labels.truth[:, 1] = 1
    (note,) = metric_notes(labels)
    assert note.startswith("All rows have the same answer for 'b': ROC AUC")
    both = draw("multioutput")
    (note,) = metric_notes(both.take(both.truth[:, 1] > 0))
    assert note.startswith("No row is truly 'ant' of animal: ")
    assert all(metric_notes(draw(task)) == () for task in ("regression", "multitarget", "outlier", "cluster", "transform"))


def test_few_rows_are_a_concern_and_fewer_than_three_have_no_interval():
    assert all(few_rows_concern(draw(task)) == () for task in ("binary", "multiclass", "regression", "cluster", "multilabel"))
    (few,) = few_rows_concern(draw("regression", 29))
    assert "not enough rows to say" in few and "29 rows" in few
    assert few_rows_concern(draw("regression", 30)) == ()
    two = draw("binary")
    rare = two.take(np.r_[np.flatnonzero(two.truth == 0), np.flatnonzero(two.truth == 1)[:9]])
    assert "'yes' (9)" in few_rows_concern(rare)[0] and "'no'" not in few_rows_concern(rare)[0]
    pair = metric_table(draw("regression", 2), resamples=50)
    assert pair[["low", "high"]].isna().all(axis=None) and pair["value"].notna().any()
    assert metric_table(draw("regression", 3), resamples=50)["low"].notna().any()


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
