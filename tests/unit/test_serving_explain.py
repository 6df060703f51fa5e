"""Shapley values without shap are shap's own, keep every dtype, and add up."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.explain import Explainer
from mlworkbench.serving.predictor import Predictor
from mlworkbench.serving.shapley import shapley_values
from mlworkbench.serving.signature import Column, Signature

shap = pytest.importorskip("shap")


@pytest.fixture(scope="module")
def forest():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 6))
    y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).astype(int)
    return RandomForestClassifier(20, random_state=0).fit(X, y), X


def test_exact_values_are_those_of_shap(forest):
    model, X = forest
    rows, background = X[:5], X[100:120]
    ours = shapley_values(model.predict_proba, rows, background)
    masker = shap.maskers.Independent(background, max_samples=len(background))
    theirs = shap.explainers.ExactExplainer(model.predict_proba, masker)(rows)
    assert ours.exact
    np.testing.assert_allclose(ours.contributions, theirs.values, atol=1e-9)
    np.testing.assert_allclose(ours.base, theirs.base_values[0], atol=1e-12)


def test_sampled_values_add_up_and_are_near_the_exact_ones(forest):
    model, X = forest
    rows, background = X[:5], X[100:120]
    exact = shapley_values(model.predict_proba, rows, background)
    sampled = shapley_values(model.predict_proba, rows, background, evaluations=60)
    assert not sampled.exact
    np.testing.assert_allclose(sampled.contributions.sum(axis=1), sampled.outputs - sampled.base, atol=1e-12)
    assert abs(sampled.contributions - exact.contributions).max() < 0.1
    again = shapley_values(model.predict_proba, rows, background, evaluations=60)
    np.testing.assert_array_equal(sampled.contributions, again.contributions)


def test_a_sparse_matrix_gives_the_values_of_the_dense_one(forest):
    model, X = forest
    dense = np.where(abs(X) < 1, 0, X)
    ask = LogisticRegression().fit(csr_matrix(dense), X[:, 0] > 0).predict_proba
    ours = shapley_values(ask, csr_matrix(dense[:3]), csr_matrix(dense[50:60]))
    np.testing.assert_allclose(ours.contributions, shapley_values(ask, dense[:3], dense[50:60]).contributions, atol=1e-12)


def test_the_model_sees_the_dtypes_it_was_fitted_on():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({
        "n": pd.array([1, None, 3, 4] * 10, dtype="Int64"), "c": pd.Categorical(["a", "b"] * 20), "t": ["x", "y", None, "z"] * 10,
        "d": pd.date_range("2024-01-01", periods=40), "f": random.normal(size=40).astype("float32"), "b": [True, False] * 20,
    })
    seen = []

    def ask(data):
        seen.append(data.dtypes.tolist())
        return data["f"].to_numpy(dtype=float) + data["b"].to_numpy() + data["n"].isna().to_numpy()

    found = shapley_values(ask, frame.head(4), frame.tail(9))
    assert all(dtypes == frame.dtypes.tolist() for dtypes in seen)
    np.testing.assert_allclose(found.contributions.sum(axis=1), found.outputs - found.base, atol=1e-12)
    assert not found.contributions[:, [1, 2, 3], 0].round(12).any()  # what the function does not read moves nothing


def test_a_column_that_is_as_in_the_background_moves_nothing_and_costs_nothing():
    calls = []

    def ask(data):
        calls.append(len(data))
        return data.sum(axis=1)

    background = np.ones((5, 40))
    row = background[:1].copy()
    row[0, 3] = 7
    found = shapley_values(ask, row, background)
    assert found.exact and found.contributions[0, 3, 0] == 6 and sum(calls) == 6
    missing = np.full((5, 2), np.nan)
    assert shapley_values(lambda data: np.isnan(data).sum(axis=1), missing[:1], missing).contributions.sum() == 0


def test_the_explainer_explains_the_class_that_is_predicted_and_refuses_bad_rows():
    frame = pd.DataFrame({"x": np.linspace(-3, 3, 60), "town": ["Ulm", "Bonn", "Kiel"] * 20})
    label = np.where(frame["x"] < -1, "low", np.where(frame["x"] < 1, "mid", "top"))
    model = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["town"]), remainder="passthrough"), LogisticRegression(max_iter=500)
    ).fit(frame, label)
    columns = (Column("x", "number", "float64"), Column("town", "string", "str"))
    signature = Signature(columns, "multiclass", classes=("low", "mid", "top"))
    explainer = Explainer(Predictor(model, signature), frame.to_dict("records")[::3])
    told = explainer.explain([{"x": 2.9, "town": "Ulm"}, {"x": -2.9, "town": "Ulm"}])["explanations"]
    assert [one["of"] for one in told] == ["top", "low"]
    assert all(one["contributions"]["x"] > abs(one["contributions"]["town"]) for one in told)
    for one in told:
        assert sum(one["contributions"].values()) == pytest.approx(one["output"] - one["base"], abs=1e-12)
    assert explainer.explain([])["explanations"] == []
    with pytest.raises(ServiceError) as caught:
        explainer.explain([{"x": "much", "town": "Ulm"}])
    assert caught.value.status == 400
    with pytest.raises(ServiceError):
        Explainer(Predictor(model, signature), [])
