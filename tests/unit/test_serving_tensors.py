"""What a converted model makes of columns: readers, rows in parts, forms of rows."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from mlworkbench.bundling.convert import convert_estimator
from mlworkbench.core.errors import InputError
from mlworkbench.model.families import Told
from mlworkbench.model.loading import load_model, wrap
from mlworkbench.model.signature import infer_signature
from mlworkbench.model.tensors import CONVERTED
from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.http import Request
from mlworkbench.serving.methods import Asker
from mlworkbench.serving.predictor import Predictor
from mlworkbench.serving.protocols import Protocols
from mlworkbench.serving.runtimes import load_estimator
from mlworkbench.serving.tensors import Coded, Matrix, tensor_model
from mlworkbench.serving.words import Words

X = pd.DataFrame(np.random.default_rng(0).normal(size=(120, 3)), columns=["a", "b c", "größe"])
y = np.where(X["a"] + X["größe"] > 0, "yes", "no")


def graph_of(estimator, rows=X):
    made = convert_estimator(estimator, infer_signature(wrap(estimator), rows))
    return tensor_model(made.content, json.loads(json.dumps(made.about)))


@pytest.mark.parametrize(("reader", "values", "numbers"), [
    ({"missing": None}, [1, None, 2.5, True], [1.0, np.nan, 2.5, 1.0]),
    ({"values": ["f", "m"], "unknown": 2, "missing": None}, ["m", None, "x", "f"], [1, np.nan, 2, 0]),
    ({"values": ["f", "m"], "unknown": None, "missing": 7}, ["m", None, "x"], [1, 7, np.nan]),
    ({"values": [3, 1], "numbers": [0.25, None], "unknown": -1, "missing": -2}, [3, 3.0, 1, 2], [0.25, 0.25, np.nan, -1]),
    ({"values": [False, True], "unknown": "refuse", "missing": 9}, [True, None, False], [1, 9, 0]),
])
def test_a_column_is_read_as_its_reader_says_one_by_one_and_together(reader, values, numbers):
    matrix = Matrix([{"column": "c", **reader}])
    together = matrix({"c": values}, len(values))[:, 0]
    alone = [matrix({"c": [value]}, 1)[0, 0] for value in values]
    np.testing.assert_array_equal(together, numbers)
    np.testing.assert_array_equal(alone, numbers)
    coded = Coded([*values, None], np.arange(len(values)))
    np.testing.assert_array_equal(matrix({"c": coded[1:]}, len(values) - 1)[:, 0], numbers[1:])


@pytest.mark.parametrize(("reader", "value", "told"), [
    ({"missing": "refuse"}, None, "a missing value in column 'c'"),
    ({"values": ["f"], "unknown": "refuse", "missing": None}, "F", "the value 'F' in column 'c'"),
    ({"values": ["f"], "unknown": 1, "missing": "refuse"}, None, "a missing value in column 'c'"),
])
def test_what_the_model_does_not_take_is_refused_by_column_and_value(reader, value, told):
    matrix = Matrix([{"column": "c", **reader}])
    for rows in ([value], ["f" if "values" in reader else 1.0, value]):
        with pytest.raises(ValueError, match=told):
            matrix({"c": rows}, len(rows))


def test_of_an_open_form_what_a_request_does_not_hold_is_absent():
    matrix = Matrix([{"column": name, "missing": None} for name in "xyz"], absent=0.0)
    assert matrix({"z": [1.0, None], "unknown": [3, 4]}, 2).tolist() == [[0, 0, 1], [0, 0, 0]]


def test_texts_stand_behind_all_other_columns():
    words = {"vocabulary": ["cat", "dog"], "pattern": r"(?u)\b\w\w+\b", "lowercase": True, "runs": [1, 1]}
    matrix = Matrix([{"column": "note", "words": words}, {"column": "n", "missing": None}])
    assert matrix({"note": ["Cat dog cat", ""], "n": [5, None]}, 2)[0].tolist() == [5, 2, 1]
    assert matrix({"note": ["dog"], "n": [1]}, 1).tolist() == [[1, 0, 1]]
    with pytest.raises(ValueError, match="takes texts, not 5"):
        Words(words).counts(5)


def test_rows_in_parts_are_answered_as_rows_together():
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    graph = graph_of(forest)
    for at_once in (1, 7, 120, 1000):
        graph.at_once = at_once
        assert (graph.predict_proba(X) == forest.predict_proba(X)).all()
        assert (graph.predict(X) == forest.predict(X)).all()


def test_frames_arrays_and_columns_of_values_are_answered_the_same():
    model, graph = LogisticRegression().fit(X, y), graph_of(LogisticRegression().fit(X, y))
    columns = {name: X[name].tolist() for name in X}
    wanted = graph.ask_columns(columns, len(X))
    assert (graph.predict_proba(X[["größe", "a", "b c"]]) == wanted["probabilities"]).all()
    assert (graph.predict_proba(X.to_numpy()) == wanted["probabilities"]).all()
    assert (wanted["predictions"] == model.predict(X)).all()


@pytest.mark.parametrize(("estimator", "methods"), [
    (RandomForestClassifier(3), {"predict", "predict_proba"}), (Ridge(), {"predict"}), (StandardScaler(), {"transform"}),
    (IsolationForest(n_estimators=5, random_state=0), {"predict", "decision_function"}),
])
def test_a_converted_model_has_the_methods_of_its_task_and_no_others(estimator, methods):
    graph = graph_of(estimator.fit(X, y if "Forest" in type(estimator).__name__ else X["a"]))
    every = {"predict", "predict_proba", "decision_function", "transform"}
    assert {name for name in every if hasattr(graph, name)} == methods
    for name in methods:
        wanted, found = getattr(estimator, name)(X), getattr(graph, name)(X)
        assert wanted.shape == found.shape
        assert np.allclose(wanted, found, rtol=1e-14) if wanted.dtype.kind == "f" else (wanted == found).all()


def test_the_service_asks_it_by_columns_and_writes_what_the_original_says():
    model = RandomForestClassifier(5, random_state=0).fit(X, y)
    signature = infer_signature(wrap(model), X)
    asker = Asker(graph_of(model), signature, {"positive": "yes", "value": 0.3})
    checked = signature.check(X.to_dict("records"))
    told = asker.columns(checked.columns, checked.rows)
    assert told["probabilities"] == model.predict_proba(X).tolist() and asker.keys == ("predictions", "probabilities")
    assert told["predictions"] == ["yes" if p >= 0.3 else "no" for p in model.predict_proba(X)[:, 1]]


def test_a_bundle_of_a_converted_model_is_loaded_as_any_model(tmp_path):
    model = RandomForestClassifier(5, random_state=0).fit(X, y)
    made = convert_estimator(model, infer_signature(wrap(model), X))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(made.content)
    entry = {"file": "model/model.onnx", "family": "tensors", **made.about, "threshold": {"positive": "no", "value": 0.6}}
    (tmp_path / "manifest.json").write_text(json.dumps({"model": entry}))
    loaded = load_model(tmp_path)
    assert (loaded.kind, loaded.classes, loaded.columns, loaded.threshold) == ("binary", ("no", "yes"), tuple(X), 0.6)
    assert (loaded.predict_proba(X) == model.predict_proba(X)).all()
    assert (load_estimator(tmp_path, entry).predict(X) == model.predict(X)).all()


def test_a_manifest_that_says_too_little_is_refused():
    with pytest.raises(ServiceError, match="must say readers, names"):
        tensor_model(b"", {"task": "binary", "outputs": {}})
    with pytest.raises(InputError, match="opened with its manifest"):
        CONVERTED.open(Path("model.onnx"), Told())


@pytest.fixture
def served(tmp_path):
    """A converted model behind its protocols, and the original."""
    model = LogisticRegression().fit(X, y)
    signature = infer_signature(wrap(model), X)
    made = convert_estimator(model, signature)
    (tmp_path / "model.onnx").write_bytes(made.content)
    golden = {"rows": X.head(4).to_dict("records"), "predictions": model.predict(X.head(4)).tolist(),
              "probabilities": model.predict_proba(X.head(4)).tolist(), "classes": list(signature.classes), "tolerance": 1e-9}
    manifest = {"name": "served", "version": "1", "model": {"file": "model.onnx", "family": "tensors", **made.about}}
    for name, part in (("manifest", manifest), ("signature", signature.to_dict()), ("golden", golden)):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    predictor = Predictor.load(tmp_path)
    return Protocols(predictor, {"max_rows": 100}), predictor, model


def test_a_request_is_given_the_scores_that_it_names_and_a_row_left_out_has_none(served, monkeypatch):
    protocols, predictor, model = served
    assert predictor.extras.names == ("decision",) and "decision" in protocols.outputs
    monkeypatch.setattr(predictor, "_data", lambda checked: pytest.fail("a frame was built"))
    rows = [*X.head(3).to_dict("records"), {"a": "text"}]
    body = json.dumps({"rows": rows, "on_error": "skip", "outputs": ["decision"]}).encode()
    read = protocols.readers["predict"](body, Request({"method": "POST", "path": "/", "headers": []}, None))
    question = predictor.read(read.rows, read.on_error)
    question.also = read.also
    (scored,) = predictor.answer([question])
    answer = json.loads(read.encode(scored.body(predictor.tag, predictor.classes)).body)
    assert "predictions" not in answer and "probabilities" not in answer and answer["decision"][3] is None
    assert np.allclose(answer["decision"][:3], model.decision_function(X.head(3)), rtol=1e-12)


def test_rows_on_request_are_asked_in_parts_too():
    model = LogisticRegression().fit(X, y)
    graph, columns = graph_of(model), {name: X[name].tolist() for name in X}
    whole = graph.ask_more("decision", columns, len(X))
    graph.at_once = 7
    assert (graph.ask_more("decision", columns, len(X)) == whole).all() and whole.shape == (len(X),)
    assert set(graph.ask_columns(columns, len(X))) == {"predictions", "probabilities"}
