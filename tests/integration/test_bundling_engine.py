"""A bundle serves a converted copy only where that gives the original's predictions, and says why where it does not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import mlworkbench as mlw
from mlworkbench.bundling import build, optimise
from mlworkbench.bundling.build import optimised_parts
from mlworkbench.bundling.content import make_parts, write_content
from mlworkbench.bundling.golden import make_golden
from mlworkbench.core.errors import InputError, MissingPart
from mlworkbench.model.loading import load_model
from mlworkbench.serving.predictor import Predictor, proves

DRAW = np.random.default_rng(0)
X = pd.DataFrame({"age": DRAW.integers(16, 95, 300).astype(float), "hours": DRAW.normal(38, 9, 300)})
Y = np.where(X["age"] * 0.7 + X["hours"] > 75, "yes", "no")


def forest():
    return make_pipeline(StandardScaler(), RandomForestClassifier(8, max_depth=5, random_state=0)).fit(X, Y)


def unconvertible():
    return make_pipeline(FunctionTransformer(np.nan_to_num), StandardScaler(), LogisticRegression()).fit(X, Y)


def parts_of(model, **options):
    return make_parts(load_model(model), name="people", examples=X, rows=24, **options)


def test_golden_predictions_stay_those_of_the_original_when_a_copy_is_served(tmp_path):
    fitted = forest()
    parts = optimised_parts(parts_of(fitted), "required")
    assert parts.converted and parts.golden["tolerance"] == 1e-6
    own = make_golden(fitted, parts.signature, parts.profile, rows=24, tolerance=1e-9)
    assert {**parts.golden, "tolerance": 1e-9} == own
    manifest = write_content(tmp_path / "content", parts)
    assert (manifest["model"]["format"], manifest["original"]["format"]) == ("tensors", "skops")
    assert manifest["model"]["type"] == "sklearn.pipeline.Pipeline" and manifest["optimisation"]["accepted"]
    assert sorted(p.name for p in (tmp_path / "content" / "model").iterdir()) == ["model.onnx"]
    served = Predictor.load(tmp_path / "content")
    assert proves(served.replay(), 1e-6)
    assert served.predict(X.head(50).to_dict("records"))["predictions"] == list(fitted.predict(X.head(50)))


@pytest.mark.parametrize("mode", ["off", "required"])
def test_a_forest_whose_trees_answer_in_threads_gets_the_same_version_twice(tmp_path, mode):
    many = RandomForestClassifier(100, max_depth=4, n_jobs=-1, random_state=0).fit(X, Y)
    versions = [write_content(tmp_path / str(i), optimised_parts(parts_of(many), mode))["content_sha256"] for i in range(3)]
    assert len(set(versions)) == 1


def test_a_model_that_is_not_converted_stays_and_the_reason_is_kept(tmp_path):
    parts = optimised_parts(parts_of(unconvertible()), "auto")
    assert not parts.converted and parts.golden["tolerance"] == 1e-9
    manifest = write_content(tmp_path / "content", parts)
    assert manifest["model"]["format"] == "skops" and not manifest["optimisation"]["accepted"]
    assert "nan_to_num" in manifest["optimisation"]["reason"]
    lock = (tmp_path / "content" / "requirements.lock").read_text()
    assert "scikit-learn==" in lock and "pandas==" in lock and "onnxruntime==" not in lock
    with pytest.raises(InputError, match="the model must be one that is converted"):
        optimised_parts(parts, "required")


def test_switched_off_nothing_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "optimise_model", lambda *_, **__: pytest.fail("tried"))
    parts = optimised_parts(parts_of(forest()), "off")
    assert write_content(tmp_path / "content", parts)["optimisation"] == {"accepted": False, "reason": ""}


def test_without_the_converter_the_original_stays_unless_a_copy_is_required(monkeypatch):
    def missing(module, extra, **_):
        raise MissingPart(f'optimise: {module} must be installed, got none. Type: pip install "mlworkbench[{extra}]".')

    monkeypatch.setattr(optimise, "import_extra", missing)
    parts = optimised_parts(parts_of(forest()), "auto")
    assert not parts.converted and 'pip install "mlworkbench[onnx]"' in parts.optimised.reason
    with pytest.raises(MissingPart, match="mlworkbench"):
        optimised_parts(parts, "required")


def test_a_copy_that_does_not_give_the_golden_predictions_is_not_served_whatever_was_said_of_it(monkeypatch):
    other = make_pipeline(StandardScaler(), RandomForestClassifier(8, max_depth=2, random_state=1)).fit(X, Y)
    wrong = optimise.optimise(load_model(other), parts_of(other).signature, None, parts_of(other).golden)
    assert wrong.accepted
    monkeypatch.setattr(build, "optimise_model", lambda *_, **__: wrong)
    parts = optimised_parts(parts_of(forest()), "auto")
    assert not parts.converted and "of the golden rows" in parts.optimised.reason and parts.golden["tolerance"] == 1e-9


def test_a_shipped_threshold_holds_for_the_copy_too(tmp_path):
    model = replace(load_model(forest()), threshold=0.8, positive="yes")
    parts = optimised_parts(make_parts(model, name="people", examples=X, rows=24), "required")
    manifest = write_content(tmp_path / "content", parts)
    assert manifest["model"]["threshold"] == {"positive": "yes", "value": 0.8}
    served = Predictor.load(tmp_path / "content").predict(X.head(80).to_dict("records"))["predictions"]
    assert served == list(model.predict(X.head(80))) != list(model.estimator.predict(X.head(80)))


def test_a_network_in_eight_bits_has_a_tolerance_of_its_own_and_says_so(tmp_path):
    small = MLPRegressor(hidden_layer_sizes=(16,), max_iter=1000, random_state=0)
    network = make_pipeline(StandardScaler(), small).fit(X, X["age"] / 50)
    parts = optimised_parts(make_parts(load_model(network), name="people", examples=X, rows=24), "required", quantise="int8")
    told = write_content(tmp_path / "content", parts)["optimisation"]["quantised"]
    assert told["tolerance"] == 0.01 and {"accepted", "reason"} <= set(told)
    assert parts.golden["tolerance"] == (0.01 if told["accepted"] else 1e-6)
    assert proves(Predictor.load(tmp_path / "content").replay(), parts.golden["tolerance"])


def test_the_page_shows_the_engine_how_much_faster_it_is_and_how_far_off(place, tmp_path):
    made = mlw.build_bundle(forest(), name="people", examples=X, environment="current", golden_rows=24)
    tiles = made.tiles()
    assert tiles["Engine"] == "onnxruntime" and tiles["Speed-up of one row"].endswith(" ×")
    assert tiles["Worst difference"] <= 1e-12 and tiles["Labels that differ"] == 0
    page = made.html(evidence=True)
    engine = made.evidence()[1].table.iloc[0]
    assert (engine["engine"], engine["in place of"]) == ("onnxruntime", "sklearn.pipeline.Pipeline")
    assert engine["labels that differ"] == 0 and "Before the copy was taken" in page and "POST /v2/models/people/infer" in page
    told = json.dumps(made.summary())
    assert str(made.provenance["seconds"]["ready"]) not in told, "times are no part of a summary"
    again = mlw.load_model(made.path)
    assert again.family == "tensors" and list(again.predict(X.head(30))) == list(forest().predict(X.head(30)))


def test_the_stage_hands_on_the_executed_notebook_of_its_evaluation(place, tmp_path):
    from mlworkbench.core.workspace import Artifact, workspace
    from mlworkbench.serving.integrity import sha256_file
    from mlworkbench.stages.bundle_stage import _evaluation

    folder = tmp_path / "run"
    folder.mkdir()
    made = mlw.evaluate(forest(), X, Y, name="people", resamples=20)
    path = made.save(folder / "evaluation.json")
    assert _evaluation(str(path), "latest")[1] == _evaluation(str(folder), "latest")[1] == {"run": "", "notebook": ""}
    (folder / "evaluate.ipynb").write_text('{"cells": []}')
    notebook = sha256_file(folder / "evaluate.ipynb")
    workspace().ledger.record(Artifact("evaluation", "20261121T120000-evaluate-1f2e", "people", str(path), run="run-7"))
    found, origins = _evaluation("latest", "latest")
    assert (found.name, origins) == ("people", {"run": "run-7", "notebook": notebook})
    assert _evaluation(str(Path(folder)), "latest")[1] == {"run": "", "notebook": notebook}


# --- what is asked for on request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "name", "method"), [
    (LogisticRegression(), "decision", "decision_function"), (KMeans(3, random_state=0), "transform", "transform"),
    (GradientBoostingClassifier(n_estimators=9), "decision", "decision_function"),
    (QuadraticDiscriminantAnalysis(), "decision", "decision_function"),
], ids=lambda value: type(value).__name__ if hasattr(value, "fit") else "")
def test_what_the_original_gives_on_request_the_copy_gives_too(tmp_path, model, name, method):
    fitted = make_pipeline(StandardScaler(), model).fit(X, Y)
    parts = optimised_parts(parts_of(fitted), "required")
    manifest = write_content(tmp_path / "content", parts)
    assert manifest["model"]["more"] == {name: name} and "unanswered" not in manifest["optimisation"]
    served = Predictor.load(tmp_path / "content")
    assert served.extras.direct and served.extras.names == (name,) and set(served.keys) & {name} == set()
    rows = X.head(40).to_dict("records")
    question = served.read(rows)
    question.also = (name,)
    (scored,) = served.answer([question])
    assert np.allclose(scored.more[name], getattr(fitted, method)(X.head(40)), rtol=1e-9, atol=1e-9)
    assert name not in served.predict(rows), "the usual answer stays as it was"


def test_what_the_copy_no_longer_gives_is_named_in_the_manifest_and_on_the_page(tmp_path):
    steps, age = IsotonicRegression(out_of_bounds="clip").fit(X[["age"]], X["age"] / 50), X[["age"]]
    parts = optimised_parts(make_parts(load_model(steps), name="people", examples=age, rows=24), "required")
    told = write_content(tmp_path / "content", parts)["optimisation"]
    assert told["accepted"] and told["unanswered"] == {"transform": "it is not converted"}
    assert "does not give what the original would: transform (it is not converted)" in build._no_longer(told["unanswered"])


def test_an_answer_on_request_that_differs_is_left_out_and_the_copy_is_served(monkeypatch):
    other, right = LogisticRegression(C=1e-3).fit(X, Y), optimise.convert_model

    def careless(model, signature):
        made = right(model, signature)
        return replace(made, about={**made.about, "more": {"decision": made.about["outputs"]["labels"]}})

    monkeypatch.setattr(optimise, "convert_model", careless)
    found = optimised_parts(parts_of(other), "required").optimised
    assert found.accepted and "more" not in found.about
    assert "the decision score differs by" in found.unanswered["decision"]
