"""Outcomes of every task: from models of every shape of answer, from bad input, row by row."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification, make_multilabel_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.outcomes import (
    Outcome,
    outcome_frame,
    predict_outcome,
    prediction_frame,
    read_outcome,
    row_losses,
    split_outputs,
)
from mlworkbench.model.loading import load_model

X, TAGS = make_multilabel_classification(120, n_labels=3, random_state=0)
NAMED = pd.DataFrame(TAGS, columns=["news", "sport", "arts", "money", "travel"])


@pytest.mark.parametrize("estimator", [
    RandomForestClassifier(10, random_state=0), MultiOutputClassifier(LogisticRegression(max_iter=500)),
    OneVsRestClassifier(LogisticRegression(max_iter=500)), MLPClassifier((8,), max_iter=20, random_state=0),
    ClassifierChain(LogisticRegression(max_iter=500)),
], ids=lambda e: type(e).__name__)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_labels_come_in_one_form_from_every_shape_of_probabilities(estimator):
    fitted = estimator.fit(X, TAGS)
    outcome = predict_outcome(load_model(fitted), X, NAMED)
    assert outcome.task == "multilabel" and outcome.outputs == tuple(NAMED.columns) and outcome.probable
    assert outcome.scores.shape == outcome.truth.shape == outcome.predicted.shape == (120, 5)
    assert (outcome.truth == TAGS).all() and (outcome.predicted == fitted.predict(X)).all()
    agree = (outcome.scores > 0.5) == (outcome.predicted == 1)
    assert agree.mean() > 0.97  # a forest's ties apart, a label is called where its probability is above one half


def test_labels_without_probabilities_have_decision_scores():
    outcome = predict_outcome(load_model(RidgeClassifier().fit(X, TAGS)), X, csr_matrix(TAGS))
    assert not outcome.probable and ((outcome.scores > 0) == (outcome.predicted == 1)).all()
    assert row_losses(outcome, "brier") is None and row_losses(outcome).max() <= 1


def test_a_label_that_was_never_seen_in_training_still_has_a_column():
    tags = TAGS.copy()
    tags[:, 2] = 0
    outcome = predict_outcome(load_model(RandomForestClassifier(5, random_state=0).fit(X, tags)), X, TAGS)
    assert outcome.scores[:, 2].max() == 0 and outcome.truth[:, 2].sum() == TAGS[:, 2].sum()


def test_several_classes_a_row_are_codes_with_a_table_of_probabilities_each():
    kinds = np.array(["none", "one", "two"])[TAGS[:, 1] + TAGS[:, 2]]
    y = pd.DataFrame({"size": np.where(TAGS[:, 0], "large", "small"), "kind": kinds})
    outcome = predict_outcome(load_model(RandomForestClassifier(10, random_state=0).fit(X, y)), X, y)
    assert outcome.task == "multioutput" and [t.shape[1] for t in outcome.scores] == [2, 3]
    size, kind = split_outputs(outcome).values()
    assert size.task == "binary" and kind.task == "multiclass" and size.classes == ("large", "small")
    assert outcome_frame(outcome)["prediction_0"].isin(["large", "small"]).all()
    with pytest.raises(InputError, match="the target size must be among"):
        predict_outcome(load_model(RandomForestClassifier(5).fit(X, y)), X, y.replace("large", "huge"))


def test_several_numbers_a_row_keep_the_names_of_their_columns():
    rows, y = make_regression(80, 5, n_targets=3, random_state=0)
    named = pd.DataFrame(y, columns=["a", "b", "c"])
    model = load_model(LinearRegression().fit(rows, named))
    outcome = predict_outcome(model, rows, named)
    assert outcome.task == "multitarget" and list(split_outputs(outcome)) == ["a", "b", "c"]
    assert row_losses(outcome.take([0, 1])).shape == (2,)
    with pytest.raises(InputError, match="must have 2 columns, one an output, got 3"):
        predict_outcome(model, rows, named[["a", "b"]])
    with pytest.raises(InputError, match="the target b must not be missing"):
        predict_outcome(model, rows, named.assign(b=np.nan))


@pytest.mark.parametrize(("known", "positive"), [
    ([1, -1], None), ([0, 1], None), ([False, True], None), (["fine", "odd"], "odd"), ([2.0, 7.0], "7.0"),
])
def test_known_outliers_are_read_in_every_coding(known, positive):
    rows = np.r_[np.random.default_rng(0).normal(size=(90, 2)), np.full((10, 2), 8.0)]
    truth = np.repeat(np.array(known, dtype=object if isinstance(known[0], str) else None), [90, 10])
    model = load_model(IsolationForest(random_state=0, contamination=0.12).fit(rows))
    outcome = predict_outcome(model, rows, truth, positive=positive)
    assert outcome.truth.sum() == 10 and outcome.predicted[-10:].all()
    assert outcome.positive_scores[-10:].min() > outcome.positive_scores[:90].mean()


def test_outliers_need_no_target_and_refuse_one_that_tells_nothing():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    model = load_model(IsolationForest(random_state=0).fit(rows))
    assert predict_outcome(model, rows).truth is None
    with pytest.raises(InputError, match="must be 1 and -1"):
        predict_outcome(model, rows, np.ones(50))
    with pytest.raises(InputError, match="inliers and outliers, got one kind only"):
        predict_outcome(model, rows, np.zeros(50))


def test_clusters_of_a_pipeline_are_judged_where_they_were_found():
    rows = np.random.default_rng(0).normal(size=(60, 3)) * [1, 1000, 1]
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(rows)
    outcome = predict_outcome(load_model(pipeline), rows)
    assert np.allclose(outcome.features, pipeline[:-1].transform(rows)) and outcome.truth is None


def test_a_transformer_says_what_comes_back_and_text_has_no_numbers_to_judge_by():
    rows = np.random.default_rng(0).normal(size=(40, 4))
    plane = predict_outcome(load_model(PCA(2).fit(rows)), rows)
    assert np.allclose(row_losses(plane), ((rows - plane.restored) ** 2).sum(axis=1))
    texts = pd.Series(["a cat sat", "the dog ran", "a dog and a cat"] * 5, name="text")
    words = predict_outcome(load_model(TfidfVectorizer().fit(texts)), texts)
    assert words.features is None and hasattr(words.predicted, "tocsr") and outcome_frame(words).shape[0] == 15
    assert words.take([3, 3]).rows == 2


def test_rows_are_taken_by_position_mask_and_slice_in_every_part():
    outcome = predict_outcome(load_model(RandomForestClassifier(5, random_state=0).fit(X, TAGS)), X, TAGS)
    for rows in (np.array([5, 5, 1]), np.arange(120) < 7, slice(3, 9)):
        part = outcome.take(rows)
        assert (part.truth == outcome.truth[rows]).all() and (part.scores == outcome.scores[rows]).all()
        assert np.allclose(row_losses(part), row_losses(outcome)[rows])


def test_losses_are_those_of_the_metrics():
    rows, y = make_classification(200, 6, n_classes=3, n_informative=4, random_state=0)
    outcome = predict_outcome(load_model(LogisticRegression(max_iter=500).fit(rows, y)), rows, y)
    from mlworkbench.evaluation.metrics import metric_values

    values = metric_values(outcome)
    for kind, metric in (("log", "log_loss"), ("brier", "brier")):
        assert row_losses(outcome, kind).mean() == pytest.approx(values[metric], abs=1e-12)
    assert 1 - row_losses(outcome).mean() == pytest.approx(values["accuracy"], abs=1e-12)
    with pytest.raises(InputError, match="must be one of"):
        row_losses(outcome, "squared")


def test_bad_input_is_told_in_words():
    rows, y = make_classification(60, random_state=0)
    model = load_model(LogisticRegression().fit(rows, y))
    for wrong, words in (
        ((rows[:0], y[:0]), "at least one row"), ((rows, y[:5]), "60 rows and 5 answers"), ((rows, None), "no target"),
        ((rows, np.zeros(60)), "at least two classes"), ((rows, np.where(y, 7, 0)), "got 7"),
        ((rows, np.where(y, np.nan, 0)), "must not be missing"),
    ):
        with pytest.raises(InputError, match=words):
            predict_outcome(model, *wrong)
    with pytest.raises(InputError, match="sums to 1.2"):
        read_outcome("binary", [0, 1], [0, 1], classes=[0, 1], probabilities=[[0.6, 0.6], [0.5, 0.5]])
    with pytest.raises(InputError, match="task must be one of"):
        read_outcome("cluster", [0], [0])


def test_predictions_of_every_task_make_a_table_for_the_profile():
    assert prediction_frame("cluster", [0.0, 2.0])["prediction"].tolist() == ["0", "2"]
    assert prediction_frame("outlier", [1, -1])["prediction"].tolist() == ["1", "-1"]
    assert prediction_frame("multitarget", [[1.5, 2], [3, 4]])["prediction_1"].tolist() == [2.0, 4.0]
    assert prediction_frame("multioutput", [["s", 1], ["l", 0]])["prediction_0"].tolist() == ["s", "l"]
    assert prediction_frame("transform", np.zeros((2, 80))).shape == (2, 50)
    assert prediction_frame("multilabel", []).empty


def test_an_outcome_can_be_made_by_hand():
    assert Outcome("regression", np.zeros(3), np.ones(3)).rows == 3
