"""What an evaluation decides is what the bundle does: the threshold, the model card, the gate that failed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlworkbench as mlw
from mlworkbench.bundling.content import make_parts
from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.evaluate import ANALYSES
from mlworkbench.evaluation.result import read_evaluation
from mlworkbench.model.loading import load_model
from mlworkbench.serving.predictor import Predictor


@pytest.fixture(scope="module")
def tumours():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    X, y = X.iloc[:, :6], y.map({0: "malignant", 1: "benign"})
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X[::2], y[::2]), X[1::2], y[1::2]


def test_the_service_answers_by_the_threshold_that_the_costs_chose(tumours, place):
    model, X, y = tumours
    found = mlw.evaluate(model, X, y, positive="malignant", costs={"fp": 1, "fn": 20}, gate=["accuracy >= 0.999"], resamples=50)
    made = mlw.build_bundle(model, name="tumours", examples=X, evaluation=found, environment="current")
    folder = Path(made.path) / "src"
    told = json.loads((folder / "manifest.json").read_text())["model"]["threshold"]
    assert told == found.threshold == {"positive": "malignant", "value": told["value"]} and 0 < told["value"] < 0.5
    rows = json.loads(X.to_json(orient="records", double_precision=15))
    answers = Predictor.load(folder).predict(rows)
    chance = np.array(answers["probabilities"])[:, answers["classes"].index("malignant")]
    wanted = np.where(chance >= told["value"], "malignant", "benign")
    assert answers["predictions"] == wanted.tolist() and (wanted != model.predict(X)).any()
    assert found.metric("accuracy") == pytest.approx((wanted == y).mean(), abs=0.01)
    assert found.status == "failed" and "accuracy >= 0.999" in made.concerns[0]  # it ships what failed: that is said


def test_a_card_that_a_person_edited_is_the_one_in_the_bundle(tumours, place, tmp_path):
    model, X, y = tumours
    found = mlw.evaluate(model, X, y, positive="malignant", resamples=0)
    path = found.save(tmp_path / "evaluation.json")
    (tmp_path / "model_card.md").write_text(found.card + "\nNever for children.\n", encoding="utf-8")
    made = mlw.build_bundle(model, name="tumours", examples=X, evaluation=read_evaluation(path), environment="current")
    assert (Path(made.path) / "src" / "model_card.md").read_text(encoding="utf-8").endswith("Never for children.\n")
    assert made.concerns == () and "card" not in json.loads((Path(made.path) / "src" / "evaluation.json").read_text())


def test_a_threshold_keeps_its_class_and_its_model(tumours, place):
    model, X, y = tumours
    wrapped = replace(load_model(model), threshold=0.12, positive="malignant")
    found = mlw.evaluate(wrapped, X, y, positive="benign", resamples=0, skip=list(ANALYSES))
    assert found.positive == "benign" and found.threshold == {"positive": "malignant", "value": 0.12}
    parts = make_parts(wrapped, name="tumours", examples=X, evaluation=found)
    assert (parts.model.threshold, parts.model.positive) == (0.12, "malignant")
    other = load_model(LogisticRegression(max_iter=500).fit(X, y))
    with pytest.raises(InputError, match="of the model that is bundled, got one of another model"):
        make_parts(other, name="tumours", examples=X, evaluation=found)
