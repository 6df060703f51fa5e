"""Learning: sides beside each other, over-fit named only where it is sure, folds and curves."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, make_classification, make_regression
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, make_scorer, r2_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, learning_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.learning import fold_summary, learning_section
from mlworkbench.evaluation.outcomes import predict_outcome
from mlworkbench.evaluation.sections import Case
from mlworkbench.model.loading import wrap


def looked_at(estimator, X, y, resamples=100, **options):
    cut = len(X) // 2
    model = wrap(estimator.fit(X[:cut], y[:cut]), sha256="unasked")
    case = Case(model, X[cut:], y[cut:], predict_outcome(model, X[cut:], y[cut:]), resamples=resamples)
    return learning_section(case, train=(X[:cut], y[:cut]), **options)


def test_findings_are_the_metrics_of_each_side():
    X, y = make_classification(600, 6, random_state=0)
    estimator = LogisticRegression()
    found = looked_at(estimator, X, y, validation=(X[300:450], y[300:450])).findings
    assert found["train.accuracy"] == pytest.approx(estimator.score(X[:300], y[:300]), abs=1e-12)
    assert found["validation.accuracy"] == pytest.approx(estimator.score(X[300:450], y[300:450]), abs=1e-12)
    gap = estimator.score(X[:300], y[:300]) - estimator.score(X[300:], y[300:])
    assert found["train.accuracy.gap"] == pytest.approx(gap, abs=1e-12)
    assert found["train.log_loss.low"] < found["train.log_loss"] < found["train.log_loss.high"]


def test_a_gap_is_positive_where_training_rows_do_better_whichever_way_a_metric_counts():
    X, y = make_regression(400, 10, noise=60, random_state=0)
    found = looked_at(DecisionTreeRegressor(random_state=0), X, y).findings
    assert found["train.rmse"] == 0 and found["train.rmse.gap"] > 50 and found["train.r2.gap"] > 0


@pytest.mark.parametrize(("estimator", "over"), [
    (DecisionTreeClassifier(random_state=0), True), (KNeighborsClassifier(1), True), (LogisticRegression(), False),
    (DecisionTreeClassifier(max_depth=2, random_state=0), False),
])
def test_over_fit_is_named_where_most_is_learned_by_heart(estimator, over):
    seeds, named = 5, 0
    for seed in range(seeds):
        X, y = make_classification(1200, 10, n_informative=3, flip_y=0.5, random_state=seed)
        named += bool(looked_at(estimator, X, y).concerns)
    assert named == (seeds if over else 0)


@pytest.mark.parametrize("estimator", [RandomForestClassifier(40, random_state=0), RandomForestRegressor(40, random_state=0)])
def test_a_forest_that_generalises_is_not_called_over_fit(estimator):
    if isinstance(estimator, RandomForestRegressor):
        X, y = load_diabetes(return_X_y=True)
    else:
        X, y = make_classification(1000, 10, n_informative=4, random_state=0)
    found = looked_at(estimator, X, y)
    assert found.concerns == () and max(found.findings["train.r2" if "train.r2" in found.findings else "train.accuracy"], 0) > 0.8


def test_too_few_rows_are_no_proof_of_over_fit():
    X, y = make_classification(24, 5, random_state=0)
    assert looked_at(DecisionTreeClassifier(random_state=0), X, y).concerns == ()


def test_folds_are_those_of_scikit_learn():
    X, y = make_classification(600, 6, n_classes=3, n_informative=4, random_state=0)
    found = looked_at(LogisticRegression(), X, y, folds=4)
    splits = StratifiedKFold(4, shuffle=True, random_state=0)
    scores = cross_val_score(LogisticRegression(), X[:300], y[:300], cv=splits, scoring=make_scorer(balanced_accuracy_score))
    assert found.findings["cross_validation.balanced_accuracy.mean"] == pytest.approx(scores.mean(), abs=1e-12)
    assert found.findings["cross_validation.balanced_accuracy.std"] == pytest.approx(scores.std(ddof=1), abs=1e-12)


def test_the_interval_of_a_mean_over_folds_is_wider_than_the_naive_one():
    values = pd.DataFrame([[0.8, 0.82, 0.78, 0.81, 0.79]], index=["accuracy"])
    row = fold_summary(values).iloc[0]
    naive = 2.776 * row["std"] / math.sqrt(5)
    assert row["mean"] - row["low"] == pytest.approx(naive * 1.5, rel=1e-3)  # sqrt(1/5 + 1/4) is 1.5 times sqrt(1/5)


def test_the_learning_curve_is_that_of_scikit_learn():
    X, y = make_regression(400, 5, noise=20, random_state=0)
    found = looked_at(Ridge(), X, y, curve=True)
    from sklearn.model_selection import KFold

    _, _, scores = learning_curve(Ridge(), X[:200], y[:200], train_sizes=[0.5, 1.0], scoring=make_scorer(r2_score),
                                  cv=KFold(3, shuffle=True, random_state=0), shuffle=True, random_state=0)
    assert found.findings["learning_curve.r2.gain"] == pytest.approx((scores[1] - scores[0]).mean(), abs=1e-9)
    assert "unlikely to help much" in found.evidence[-1].note and found.evidence[-1].svg.startswith("<svg")


@pytest.mark.parametrize(("options", "told"), [
    ({"folds": 1}, "folds must lie between 2"), ({"folds": 400}, "folds must lie between 2"),
    ({"folds": 200}, "each class must have a row in each fold"), ({"validation": 3}, "it must be a pair of rows and answers"),
])
def test_what_cannot_be_done_is_told(options, told):
    X, y = make_classification(600, 6, random_state=0)
    with pytest.raises(InputError, match=told):
        looked_at(LogisticRegression(), X, y, **options)


def test_training_rows_of_other_columns_are_refused():
    X, y = make_classification(200, 4, random_state=0)
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = wrap(LogisticRegression().fit(frame, y), sha256="unasked")
    case = Case(model, frame, y, predict_outcome(model, frame, y), resamples=0)
    with pytest.raises(InputError, match="training"):
        learning_section(case, train=(frame.rename(columns={"a": "z"}), y))
    more = learning_section(case, train=(frame.assign(person=1), y), folds=2)
    assert more.findings["train.accuracy.gap"] == 0


class Odd:
    """A model of somebody's own: it predicts, and cannot be fitted again."""

    def predict(self, X):
        return np.asarray(X)[:, 0]


def test_a_model_that_cannot_be_fitted_again_is_said_so():
    X, y = make_regression(100, 3, random_state=0)
    model = wrap(Odd(), sha256="unasked")
    case = Case(model, X, y, predict_outcome(model, X, y), resamples=0)
    found = learning_section(case, train=(X, y), folds=3, curve=True)
    assert "cannot be fitted again" in found.evidence[1].text and not any("cross" in path for path in found.findings)


def test_many_rows_are_sampled_and_it_says_so(monkeypatch):
    from mlworkbench.evaluation import learning

    monkeypatch.setattr(learning, "MOST_ROWS", 100)
    X, y = make_classification(600, 6, random_state=0)
    found = looked_at(LogisticRegression(), X, y)
    assert "a seeded sample" in found.evidence[0].note and "training (300 rows)" in found.evidence[0].table.columns


def test_warnings_of_fitting_again_are_not_printed(recwarn):
    X, y = make_classification(200, 6, random_state=0)
    model = wrap(LogisticRegression(max_iter=2).fit(X, y), sha256="unasked")
    case = Case(model, X, y, predict_outcome(model, X, y), resamples=0)
    recwarn.clear()
    learning_section(case, train=(X, y), folds=3, curve=True)
    assert not list(recwarn)
