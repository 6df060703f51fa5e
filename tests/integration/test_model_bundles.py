"""A bundle of every family: built, started as a service, and proved to answer as the model in memory does."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mlworkbench as mlw
from mlworkbench.core.errors import InputError
from mlworkbench.serving.predictor import Predictor

WINE = load_wine(as_frame=True)
X, TWO = WINE.data, (WINE.target == 0).astype(int)
KINDS = np.array(["barolo", "grignolino", "barbera"])[WINE.target]


def need(name: str):
    return pytest.importorskip(name, reason=f'pip install "mlworkbench[{name}]"')


def pipeline_with_booster(here: Path):
    booster = need("xgboost").XGBClassifier(n_estimators=3, n_jobs=1)
    return make_pipeline(StandardScaler(), booster).fit(X, WINE.target), {}


def native_booster(here: Path):
    xgboost = need("xgboost")
    fitted = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, TWO), 3)
    return fitted, {"classes": ["other", "barolo"]}


def lightgbm_classifier(here: Path):
    return need("lightgbm").LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1).fit(
        X.rename(columns={"ash": "ash in g"}), KINDS
    ), {}


def network(here: Path):
    torch = need("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 3)), {
        "task": "multiclass",
        "classes": ["barolo", "grignolino", "barbera"],
    }


def graph(here: Path):
    rows = X.to_numpy("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = LogisticRegression(max_iter=5000).fit(rows, KINDS)
        content = need("skl2onnx").to_onnx(fitted, rows[:1], target_opset=18)
    (here / "graph.onnx").write_bytes(content.SerializeToString())
    return here / "graph.onnx", {}


def function(here: Path):
    (here / "bundled_rules.py").write_text(
        "import numpy as np\n\n\ndef predict_proba(X):\n    p = np.clip((X['alcohol'].to_numpy() - 11) / 4, 0, 1)\n"
        "    return np.c_[1 - p, p]\n"
    )
    return str(here / "bundled_rules.py") + ":predict_proba", {"task": "binary", "classes": ["light", "strong"]}


def pickled_function(here: Path):
    times = 2.0
    return lambda rows: np.log(rows["alcohol"]) * times, {"task": "regression", "trust": True}


def mlflow_function(here: Path):
    mlflow = need("mlflow")

    class Doubled(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input["ash"].to_numpy() * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pyfunc.save_model(here / "doubled", python_model=Doubled(), pip_requirements=["mlflow", "numpy"])
    return f"mlflow:{here / 'doubled'}", {"task": "regression", "trust": True}


# maker: the format that is shipped, what the lock must hold, and what it must not
MAKERS = {
    pipeline_with_booster: ("skops", {"scikit-learn", "skops"}, {"torch", "lightgbm", "onnxruntime"}),
    native_booster: ("xgboost", set(), {"scikit-learn", "skops", "joblib", "torch"}),
    lightgbm_classifier: ("lightgbm", {"lightgbm"}, {"scikit-learn", "skops", "joblib"}),
    network: ("torchscript", {"torch"}, {"scikit-learn", "skops", "scipy", "onnxruntime"}),
    graph: ("onnx", {"onnxruntime"}, {"scikit-learn", "skops", "scipy", "onnx", "skl2onnx", "torch"}),
    function: ("callable", {"numpy"}, {"scikit-learn", "skops", "scipy", "torch"}),
    pickled_function: ("cloudpickle", {"cloudpickle"}, {"scikit-learn", "skops", "torch"}),
    mlflow_function: ("mlflow", {"mlflow"}, {"torch", "xgboost", "lightgbm"}),
}


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_a_bundle_of_any_family_serves_and_is_proved(maker, place, tmp_path, measured):
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    thing, told = maker(tmp_path)
    kind, holds, lacks = MAKERS[maker]
    model = mlw.load_model(thing, **told)
    rows = X.rename(columns={"ash": "ash in g"}) if maker is lightgbm_classifier else X
    bundle = mlw.build_bundle(model, name="any", examples=rows, environment="current", golden_rows=8, optimise="off")
    assert len(bundle.certificate["checks"]) == 4 and bundle.manifest["model"]["format"] == kind
    assert all(check["passed"] and check["labels_differ"] == 0 for check in bundle.certificate["checks"])
    assert holds <= set(bundle.lock) and not lacks & set(bundle.lock)
    served = Predictor.load(Path(bundle.path) / "src").predict(rows.head(20).to_dict("records"))
    assert served["predictions"] == model.predict(rows.head(20)).tolist()
    waits = kind in ("callable", "cloudpickle", "mlflow", "torchscript")
    again = mlw.load_model(bundle.path, trust=waits)
    assert (again.kind, again.family) == (model.kind, model.family) and (again.predict(rows) == model.predict(rows)).all()
    if waits:
        with pytest.raises(InputError, match="must be trusted"):
            mlw.load_model(bundle.path)
    size_mb = sum(p.stat().st_size for p in Path(bundle.path).rglob("*") if p.is_file()) / 1e6
    measured(packages=len(bundle.lock), size_mb=f"{size_mb:.1f}", worst=bundle.summary()["worst_difference"])


def test_a_function_of_a_notebook_is_not_shipped_as_a_pickle_unasked(place):
    with pytest.raises(InputError, match="name it as file.py:function, or load it with trust=True"):
        mlw.build_bundle(
            mlw.load_model(lambda rows: rows["ash"], task="regression"), name="it", examples=X, environment="current"
        )


def test_a_threshold_travels_with_the_bundle(place):
    from dataclasses import replace

    model = mlw.load_model(LogisticRegression(max_iter=5000).fit(X, np.where(TWO, "barolo", "other")))
    strict = replace(model, threshold=0.9, positive="barolo")
    assert (strict.predict(X) == np.where(model.predict_proba(X)[:, 0] >= 0.9, "barolo", "other")).all()
    bundle = mlw.build_bundle(strict, name="strict", examples=X, environment="current", golden_rows=8)
    assert bundle.manifest["model"]["threshold"] == {"positive": "barolo", "value": 0.9}
    again = mlw.load_model(bundle.path)
    assert (again.threshold, again.positive) == (0.9, "barolo") and (again.predict(X) == strict.predict(X)).all()
    served = Predictor.load(Path(bundle.path) / "src").predict(X.to_dict("records"))
    assert served["predictions"] == strict.predict(X).tolist()
