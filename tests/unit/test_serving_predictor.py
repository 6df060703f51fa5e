"""The predictor's edges: models of every shape, rows that break them, golden rows that no longer hold."""

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from handmade_bundle import census, census_bundle, census_signature, fitted_pipeline, json_rows, write_json, write_manifest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.integrity import file_faults, library_faults, service_settings
from mlworkbench.serving.predictor import Predictor, compare, measure_cost, proves
from mlworkbench.serving.signature import Column, Signature

NUMBERS = [Column("a", "number", "float64"), Column("b", "number", "float64")]


def numbers(n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"a": rng.normal(size=n), "b": rng.normal(size=n)})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census")


def test_a_bundle_gives_exactly_the_notebook_s_predictions(bundle):
    X, y = census()
    model = fitted_pipeline(X, y)
    answer = Predictor.load(bundle).predict(json_rows(X.head(300)))
    assert answer["predictions"] == model.predict(X.head(300)).tolist()
    assert answer["probabilities"] == model.predict_proba(X.head(300)).tolist()
    assert answer["classes"] == ["no", "yes"] and answer["model"] == "census:0123456789abcdef"


def test_golden_rows_hold_and_their_change_is_seen(bundle):
    predictor = Predictor.load(bundle)
    assert proves(predictor.replay()) and predictor.replay()["rows"] == 16
    predictor.estimator[-1].intercept_ = predictor.estimator[-1].intercept_ + 1e-6
    assert not proves(predictor.replay())


class Fickle(LinearRegression):
    """A model whose library has errors of its own."""

    def predict(self, X):
        if not (np.asarray(X)[:, 0] < 5).all() or self.intercept_ > 100:
            raise RuntimeError("indices element out of data bounds")
        return super().predict(X)


def test_a_library_s_own_error_is_the_row_s_fault_while_the_model_answers_and_else_the_service_s():
    X = numbers()
    model = Fickle().fit(X, X.a)
    predictor = Predictor(model, Signature(NUMBERS), golden={"rows": json_rows(X.head(2)), "predictions": [0.0, 0.0]})
    rows = [*json_rows(X.head(2)), {"a": 9.0, "b": 1.0}]
    told = predictor.predict(rows, on_error="skip")
    assert told["predictions"][:2] == pytest.approx(X.a[:2].tolist()) and told["predictions"][2] is None
    assert told["errors"][0]["row"] == 2 and "RuntimeError: indices element" in told["errors"][0]["problem"]
    model.intercept_ = 1000
    with pytest.raises(RuntimeError, match="out of data bounds"):
        predictor.predict(rows[:1])


@pytest.mark.parametrize(("key", "value"), [("queue", -4), ("timeout_s", -20), ("max_rows", 0), ("batch_rows", 0)])
def test_a_setting_that_cannot_be_kept_means_refusing(tmp_path, key, value):
    write_json(tmp_path / "service.json", {"name": "census", key: value})
    with pytest.raises(ServiceError, match=f"{key} must be at least"):
        service_settings(tmp_path)


def test_regression_gives_numbers_and_no_probabilities():
    X = numbers()
    model = LinearRegression().fit(X, X.a * 2)
    answer = Predictor(model, Signature(NUMBERS)).predict(json_rows(X.head(2)))
    assert set(answer) == {"predictions", "model"}
    assert answer["predictions"] == model.predict(X.head(2)).tolist()


def test_several_outputs_give_a_list_a_row():
    X = numbers()
    model = LinearRegression().fit(X, pd.DataFrame({"u": X.a, "v": X.b}))
    answer = Predictor(model, Signature(NUMBERS, "multioutput", outputs=("u", "v"))).predict(json_rows(X.head(3)))
    assert answer["predictions"] == model.predict(X.head(3)).tolist()


def test_several_classified_outputs_give_their_probabilities_a_row():
    X = numbers()
    y = np.column_stack([X.a > 0, X.b > 0]).astype(int)
    model = RandomForestClassifier(5, random_state=0).fit(X, y)
    signature = Signature(NUMBERS, "multilabel", [0, 1], ("u", "v"))
    answer = Predictor(model, signature).predict(json_rows(X.head(3)))
    chances = model.predict_proba(X.head(3))
    assert answer["probabilities"][1] == [chances[0][1].tolist(), chances[1][1].tolist()]


def test_a_classifier_without_probabilities_gives_none():
    X = numbers()
    model = RidgeClassifier().fit(X, X.a > 0)
    answer = Predictor(model, Signature(NUMBERS, "binary", [False, True])).predict(json_rows(X.head(2)))
    assert "probabilities" not in answer and answer["predictions"] == model.predict(X.head(2)).tolist()


def test_a_model_fitted_on_an_array_is_given_one():
    X = numbers()
    model = LinearRegression().fit(X.to_numpy(), X.a)
    predictor = Predictor(model, Signature(NUMBERS, input="array"))
    with np.errstate(all="raise"):
        assert predictor.predict(json_rows(X.head(1)))["predictions"] == model.predict(X.head(1).to_numpy()).tolist()


def test_a_row_that_breaks_the_model_is_that_row_s_fault():
    X = numbers()
    model = RandomForestRegressor(3, random_state=0).fit(X, X.a)
    rows = json_rows(X.head(3))
    rows[1]["a"] = 1e300  # a double, but the forest works with single precision
    predictor = Predictor(model, Signature(NUMBERS))
    with pytest.raises(ServiceError, match="row 1: the model cannot take this row") as caught:
        predictor.predict(rows)
    assert caught.value.status == 400 and len(caught.value.errors) == 1
    answer = predictor.predict([{"a": "x", "b": 1}, *rows], on_error="skip")
    assert [p is None for p in answer["predictions"]] == [True, False, True, False]
    assert [e["row"] for e in answer["errors"]] == [0, 2]


def test_a_model_s_own_fault_is_not_blamed_on_the_row():
    class Broken(ClassifierMixin, BaseEstimator):
        def predict(self, X):
            raise MemoryError

    with pytest.raises(MemoryError):
        Predictor(Broken(), Signature(NUMBERS)).predict([{"a": 1, "b": 2}])


def test_a_prediction_that_is_no_number_is_null():
    class Nowhere(BaseEstimator):
        def predict(self, X):
            return np.array([math.nan, math.inf, 1.0])[: len(X)]

    rows = [{"a": 1, "b": 2}] * 3
    assert Predictor(Nowhere(), Signature(NUMBERS)).predict(rows)["predictions"] == [None, None, 1.0]


def test_skipping_every_row_keeps_the_length(bundle):
    answer = Predictor.load(bundle).predict([{}, {}], on_error="skip")
    assert answer["predictions"] == [None, None] and answer["probabilities"] == [None, None]
    assert {e["row"] for e in answer["errors"]} == {0, 1}


@pytest.mark.parametrize(("change", "worst", "labels"), [
    ({}, 0.0, 0), ({"predictions": ["b", "b"]}, 0.0, 1), ({"predictions": ["a"]}, 0.0, 1),
    ({"probabilities": [[0.5, 0.5], [0.2, 0.7]]}, 0.1, 0), ({"probabilities": None}, math.inf, 0),
    ({"probabilities": [[0.5, None], [0.2, 0.8]]}, math.inf, 0),
])
def test_parity_sees_every_difference(change, worst, labels):
    golden = {"rows": [{}, {}], "predictions": ["a", "b"], "classes": ["a", "b"], "probabilities": [[0.5, 0.5], [0.2, 0.8]]}
    outcome = compare(golden, {**golden, **change})
    assert outcome["worst"] == pytest.approx(worst) and outcome["labels_differ"] == labels


def test_parity_of_numbers_counts_a_class_of_another_type_as_different():
    golden = {"rows": [{}], "predictions": [1], "classes": [0, 1]}
    assert compare(golden, {"predictions": [True]})["labels_differ"] == 1
    assert compare({"rows": [{}], "predictions": [1.0]}, {"predictions": [2.0]})["worst"] == 0.5


@pytest.mark.parametrize(("wanted", "got", "same"), [
    (1e9, 1e9 + 0.5, True), (-1e9, -1e9 - 0.5, True), (1e9, 1e9 + 2.0, False), (1e9, -1e9, False),
    (0.5, 0.5 + 5e-10, True), (0.5, 0.5 + 2e-9, False), (1e-12, 2e-12, True), (1e9, None, False),
])
def test_a_large_number_is_compared_relative_to_its_size_and_a_small_one_as_it_is(wanted, got, same):
    outcome = compare({"rows": [{}], "predictions": [wanted], "probabilities": [[wanted]]},
                      {"predictions": [wanted], "probabilities": [[got]]})
    assert proves(outcome, 1e-9) is same
    if got is not None:
        assert proves(compare({"rows": [{}], "predictions": [wanted]}, {"predictions": [got]}), 1e-9) is same


def test_an_unknown_model_format_is_refused(tmp_path, bundle):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    write_manifest(copy, model={"file": "model/model.skops", "format": "pickle"})
    with pytest.raises(ServiceError, match="must be one of"):
        Predictor.load(copy)


def test_a_joblib_model_is_loaded_where_the_manifest_says_so(tmp_path):
    import joblib

    X = numbers()
    model = LogisticRegression().fit(X, X.a > 0)
    joblib.dump(model, tmp_path / "model.joblib")
    write_json(tmp_path / "signature.json", Signature(NUMBERS, "binary", [False, True]).to_dict())
    about = {"file": "model.joblib", "format": "joblib"}
    write_json(tmp_path / "manifest.json", {"name": "m", "version": "1", "model": about})
    assert Predictor.load(tmp_path).predict(json_rows(X.head(1)))["predictions"] == model.predict(X.head(1)).tolist()


def test_a_type_that_nobody_named_is_not_loaded(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")

    class Mine(LogisticRegression):
        pass

    Mine.__module__, Mine.__qualname__ = "somewhere", "Mine"
    skops.io.dump(Mine(), copy / "model/model.skops")
    with pytest.raises(ServiceError, match="somewhere.Mine"):
        Predictor.load(copy)


def test_integrity_names_every_file_that_differs(bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    assert file_faults(copy) == [] and library_faults(copy) == []
    (copy / "page.html").write_text("changed")
    (copy / "golden.json").unlink()
    (copy / "sitecustomize.py").write_text("")
    (copy / "notes.txt").write_text("harmless")
    faults = file_faults(copy)
    assert sorted(f.split(" ")[0] for f in faults) == ["golden.json", "page.html", "sitecustomize.py"]


def test_a_manifest_that_points_outside_is_a_fault(tmp_path):
    write_json(tmp_path / "manifest.json", {"files": {"../secret": "0", "/etc/passwd": "0"}})
    assert ["outside" in f for f in file_faults(tmp_path)] == [True, True, False]  # and it is of no schema


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', "\x00"])
def test_a_broken_manifest_is_a_fault_and_no_traceback(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    assert len(file_faults(tmp_path)) == 1


def test_settings_have_defaults_and_refuse_another_type(tmp_path):
    write_json(tmp_path / "service.json", {"name": "x", "newer": 1})
    assert service_settings(tmp_path)["max_rows"] == 10_000
    write_json(tmp_path / "service.json", {"max_rows": True})
    with pytest.raises(ServiceError, match="max_rows"):
        service_settings(tmp_path)


def test_the_time_of_a_row_is_known_when_there_is_one(bundle):
    assert 0 < measure_cost(Predictor.load(bundle)).of(1) < 5
    assert measure_cost(Predictor(None, Signature(NUMBERS))).of(1) == math.inf


def test_the_signature_of_the_demo_flags_nothing_of_its_own_rows():
    X, _ = census()
    checked = census_signature(X).check(json_rows(X))
    assert checked.errors == [] and checked.flags == {}


def test_the_room_imports_itself_relatively_so_that_a_copy_needs_no_mlworkbench():
    import mlworkbench.serving.errors as errors

    modules = sorted(Path(errors.__file__).parent.glob("*.py"))
    assert len(modules) > 9
    for module in modules:
        assert "import mlworkbench" not in module.read_text() and "from mlworkbench" not in module.read_text(), module.name
