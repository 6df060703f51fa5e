"""Asked for columns, a predictor says what it says to the rows of a request: every task, and rows that the model refuses."""

import copy
import json
import math
import os
import traceback
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.tree import DecisionTreeRegressor
from zoo import Case, fitted_more, fitted_zoo

from mlworkbench.bundling.convert import convert_estimator
from mlworkbench.deployment.client import rows_of
from mlworkbench.deployment.scorer import BatchPredictor
from mlworkbench.deployment.tables import Batch
from mlworkbench.model.loading import load_model
from mlworkbench.model.signature import infer_signature
from mlworkbench.serving.order import in_order
from mlworkbench.serving.predictor import Predictor
from mlworkbench.serving.privacy import make_veil
from mlworkbench.serving.tensors import tensor_model


def cases() -> Iterator[Case]:
    """Models that answer rows of a frame, each a copy of its own, since some of them share their steps."""
    zoo = fitted_zoo() if os.environ.get("MLW_SOAK") else ()  # all of scikit-learn in a soak
    for name, estimator, X, y in chain(zoo, fitted_more()):
        if isinstance(X, pd.DataFrame) and (hasattr(estimator, "predict") or hasattr(estimator, "transform")):
            yield name, copy.deepcopy(estimator), X, y


def said(columns: dict[str, pa.Array], labels: Any) -> dict[str, list[Any]]:
    """Columns of answers in the form of a response."""
    told = {name: values.to_pylist() for name, values in columns.items()}
    answer = {"predictions": told.pop("prediction")}
    shares = [told.pop(name) for name in list(told) if name.startswith("probability_")]
    if shares:
        answer["probabilities"] = [list(row) for row in zip(*shares, strict=True)]
    return answer | told


@pytest.mark.parametrize("case", cases(), ids=lambda case: case[0])
def test_every_model_says_the_same_to_a_batch_and_to_a_request(case: Case):
    name, estimator, X, y = case
    signature = infer_signature(load_model(estimator), X, y)
    rows, dense = rows_of(X), X.apply(lambda column: column.sparse.to_dense() if hasattr(column, "sparse") else column)
    with in_order():
        expected = Predictor(estimator, signature).predict(rows, "skip")
    predictor = BatchPredictor(estimator, signature)
    scored = predictor.score_batch(Batch(0, len(rows), pa.Table.from_pandas(dense.rename(columns=str), preserve_index=False)))
    found = said(scored.columns, signature.labels)
    told = {"predictions": expected["predictions"]}
    told |= {key: expected[key] for key in ("probabilities", "decision") if key in expected}
    if signature.answer == "object":
        return
    assert len(scored.good) == len(rows) and found.keys() == told.keys()
    assert found == told
    predictor.scored = False
    alone = predictor.score_batch(Batch(0, len(rows), records=rows))
    assert list(alone.columns) == ["prediction"] and alone.columns["prediction"].to_pylist() == told["predictions"]


MANY = 9000  # rows: more than a graph is asked at once
WORDS = pd.DataFrame({
    "city": np.array(["Bern", "Rom", None, "Oslo"], dtype=object)[np.arange(MANY) % 4], "age": np.arange(MANY) % 91 * 1.0,
    "kind": np.arange(MANY) % 3,
})


@pytest.mark.parametrize(("estimator", "labels"), [
    (LogisticRegression(max_iter=200), ["no", "yes", "so"]), (LogisticRegression(max_iter=200), [3, 1, 2]),
    (RandomForestClassifier(5, max_depth=4, random_state=0), ["no", "yes", "so"]), (LinearRegression(), None),
    (HistGradientBoostingClassifier(max_iter=5), [3, 1, 2]), (IsolationForest(n_estimators=5, random_state=0), None),
    (DecisionTreeRegressor(max_depth=4), None),
], ids=lambda value: type(value).__name__)
def test_a_graph_says_the_same_to_a_batch_and_to_a_request(estimator, labels):
    numbers = (WORDS["kind"] + WORDS["age"] / 30).astype(int) % 3
    y = numbers * 1.5 if labels is None else np.array(labels)[numbers]
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    few = WORDS[:600]
    model = make_pipeline(make_column_transformer((encode, ["city", "kind"]), remainder="passthrough"), estimator)
    signature = infer_signature(load_model(model.fit(few, y[:600])), few, y[:600])
    made = convert_estimator(model, signature)
    graph = tensor_model(made.content, json.loads(json.dumps(made.about)))
    expected = Predictor(graph, signature).predict(rows_of(WORDS), "skip")
    predictor = BatchPredictor(graph, signature)
    assert predictor.beside and predictor.estimator.matrix.coded
    found = said(predictor.score_batch(Batch(0, MANY, pa.Table.from_pandas(WORDS))).columns, signature.labels)
    assert found == {key: expected[key] for key in ("predictions", "probabilities", "decision") if key in expected}


@pytest.fixture
def strict():
    """A model that takes no city but those that it knows."""
    frame = pd.DataFrame({"city": ["Bern", "Rom", "Bern", "Rom"] * 5, "age": np.arange(20.0)})
    prepare = make_column_transformer((OneHotEncoder(handle_unknown="error"), ["city"]), remainder="passthrough")
    model = make_pipeline(prepare, LogisticRegression()).fit(frame, frame["age"] > 9)
    return model, infer_signature(load_model(model), frame)


@pytest.mark.parametrize("cut", [None, {"positive": True, "value": 0.9}])
def test_rows_that_the_model_refuses_are_found_as_the_service_finds_them(strict, cut):
    model, signature = strict
    table = pa.table({"city": ["Bern", "Oslo", "Rom", None, "Bern", "Oslo"], "age": [1.0, 2, 18, 4, 19, 6]})
    expected = Predictor(model, signature, threshold=cut).predict(table.to_pylist(), "skip")
    predictor = BatchPredictor(model, signature, threshold=cut)
    for batch in (Batch(0, 6, table), Batch(0, 6, records=table.to_pylist())):
        scored = predictor.score_batch(batch)
        assert scored.faults == expected["errors"]
        assert scored.good.tolist() == [0, 2, 4]
        assert scored.columns["prediction"].to_pylist() == [expected["predictions"][i] for i in (0, 2, 4)]
        assert scored.columns["probability_True"].to_pylist() == [expected["probabilities"][i][1] for i in (0, 2, 4)]
        assert scored.flags == {}


def test_a_model_that_fails_says_nothing_of_private_rows(strict):
    class Talking(LinearRegression):
        def predict(self, X):
            raise RuntimeError(f"what is {X['city'].tolist()}?")

    model, signature = strict
    predictor = BatchPredictor(Talking().fit([[1.0], [2.0]], [1, 2]), signature)
    batch = Batch(0, 1, pa.table({"city": ["Bern"], "age": [1.0]}))
    with pytest.raises(RuntimeError, match="what is"):
        predictor.score_batch(batch)
    predictor.veil = make_veil({"log_exclude": ["city"], "log_hash": []}, signature.names, None)
    with pytest.raises(RuntimeError, match="(?s)RuntimeError, whose words are left out.* in predict") as told:
        predictor.score_batch(batch)
    assert "Bern" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_a_threshold_cuts_a_batch_as_it_cuts_a_request(strict, value):
    model, signature = strict
    rows = [{"city": "Bern", "age": float(age)} for age in range(20)]
    cut = {"positive": False, "value": value}
    expected = Predictor(model, signature, threshold=cut).predict(rows)
    for scored in (True, False):
        predictor = BatchPredictor(model, signature, threshold=cut)
        predictor.scored = scored
        found = predictor.score_batch(Batch(0, 20, pa.Table.from_pylist(rows)))
        assert found.columns["prediction"].to_pylist() == expected["predictions"]
        assert ("probability_True" in found.columns) == scored


def test_of_thousands_of_faults_all_are_told():
    model = LinearRegression().fit(pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2]}), [1, 2])
    signature = infer_signature(load_model(model), pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2]}))
    table = pa.table({"a": ["x"] * 1500, "b": ["y"] * 1500})
    predictor = BatchPredictor(model, signature)
    by_column = predictor.score_batch(Batch(0, 1500, table)).faults
    by_row = predictor.score_batch(Batch(0, 1500, records=table.to_pylist())).faults
    assert by_column == by_row and len(by_column) == 3000


def test_numbers_that_json_does_not_know_are_null():
    class Endless(LinearRegression):
        def predict(self, X):
            return np.where(super().predict(X) > 1.5, math.inf, math.nan)

    frame = pd.DataFrame({"a": [1.0, 2.0]})
    model = Endless().fit(frame, [1, 2])
    predictor = BatchPredictor(model, infer_signature(load_model(model), frame))
    assert predictor.score_batch(Batch(0, 2, pa.Table.from_pandas(frame))).columns["prediction"].to_pylist() == [None, None]
