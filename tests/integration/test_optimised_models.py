"""Every estimator, booster and network: converted and proved, or the reason why not; the table in docs/evidence.

`MLW_WRITE=1` runs all of them and writes the table; without, a sample is run (`make soak`: all), and what was said of each must
still hold.
"""

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zoo
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators
from threadpoolctl import threadpool_limits

from mlworkbench.bundling.convert import convert_estimator
from mlworkbench.bundling.golden import make_golden
from mlworkbench.bundling.optimise import Optimised, optimise
from mlworkbench.core.errors import InputError
from mlworkbench.model.inputs import profile_table
from mlworkbench.model.loading import load_model, wrap
from mlworkbench.model.signature import infer_signature
from mlworkbench.statistics.profiles import profile_frame

PAGE = Path(__file__).parents[2] / "docs" / "evidence" / "optimised_models.md"
WRITE = bool(os.environ.get("MLW_WRITE"))
FOUND: dict[str, Optimised] = {}
pytestmark = pytest.mark.filterwarnings("ignore")


# --- what boosters and networks people bring ------------------------------------------------------------------------


@cache
def rows() -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """A frame with gaps and a category, its numbers alone, two classes, three classes, amounts."""
    chance, n = np.random.default_rng(0), 300
    X = pd.DataFrame(chance.normal(size=(n, 4)), columns=["a", "b c", "d", "e"])
    X.iloc[::9, 0] = np.nan
    X["k"], X["i"] = pd.Categorical(chance.choice(list("xyzw"), n)), chance.integers(0, 9, n)
    y = ((X["a"].fillna(1) + X["b c"] > 0) ^ (X["k"] == "y")).astype(int).to_numpy()
    return X, X[["a", "b c", "d", "e", "i"]], y, y + (X["d"] > 0.5).to_numpy(), np.exp(X["b c"]).to_numpy()


def boosters() -> dict[str, Callable[[], tuple[Any, Any]]]:
    import lightgbm
    import xgboost

    X, N, y, three, amount = rows()
    words = np.array(["p", "q", "r"])[three]
    light = {"n_estimators": 20, "verbose": -1, "n_jobs": 1}
    extreme = {"n_estimators": 20, "enable_categorical": True, "n_jobs": 1}
    classifier, regressor = lightgbm.LGBMClassifier, lightgbm.LGBMRegressor
    return {
        "XGBClassifier, 2 classes": lambda: (xgboost.XGBClassifier(**extreme).fit(X, y), X),
        "XGBClassifier, 3 classes": lambda: (xgboost.XGBClassifier(**extreme).fit(X, three), X),
        "XGBClassifier in a pipeline": lambda: (
            make_pipeline(StandardScaler(), xgboost.XGBClassifier(n_estimators=9)).fit(N, y), N),
        "XGBRegressor": lambda: (xgboost.XGBRegressor(**extreme).fit(X, amount), X),
        "XGBRegressor of counts": lambda: (xgboost.XGBRegressor(objective="count:poisson", **extreme).fit(X, amount), X),
        "XGBRFClassifier": lambda: (xgboost.XGBRFClassifier(n_estimators=20).fit(N, y), N),
        "XGBoost's dart": lambda: (xgboost.XGBClassifier(booster="dart", n_estimators=5, rate_drop=0.3).fit(N, y), N),
        "LGBMClassifier, 2 classes": lambda: (classifier(**light).fit(X, y), X),
        "LGBMClassifier, 3 classes": lambda: (classifier(**light).fit(X, words), X),
        "LGBMClassifier, one against all": lambda: (classifier(objective="multiclassova", **light).fit(X, words), X),
        "LGBMClassifier, a forest": lambda: (
            classifier(boosting_type="rf", bagging_freq=1, bagging_fraction=0.7, **light).fit(X, y), X),
        "LGBMClassifier without missing": lambda: (classifier(use_missing=False, **light).fit(N, y), N),
        "LGBMRegressor": lambda: (regressor(**light).fit(X, amount), X),
        "LGBMRegressor of amounts": lambda: (regressor(objective="tweedie", **light).fit(X, amount), X),
        "LightGBM's linear trees": lambda: (regressor(linear_tree=True, **light).fit(N.fillna(0), amount), N.fillna(0)),
    }


def networks() -> dict[str, Callable[[], tuple[Any, Any]]]:
    import torch

    N = rows()[1].fillna(0.0)

    def of(*layers: Any, **told: Any) -> Callable[[], tuple[Any, Any]]:
        def make() -> tuple[Any, Any]:
            torch.manual_seed(0)
            return load_model(torch.nn.Sequential(torch.nn.Linear(5, 8), *(layer() for layer in layers)).eval(), **told), N

        return make

    ends = torch.nn.Linear
    return {
        "PyTorch, logits of 3 classes": of(torch.nn.ReLU, lambda: ends(8, 3), task="multiclass", classes=["p", "q", "r"]),
        "PyTorch, one probability": of(torch.nn.Tanh, lambda: ends(8, 1), torch.nn.Sigmoid, task="binary"),
        "PyTorch, normalised": of(lambda: torch.nn.BatchNorm1d(8), torch.nn.GELU, lambda: ends(8, 1), task="binary"),
        "PyTorch, a number": of(torch.nn.SiLU, lambda: ends(8, 1), task="regression"),
        "PyTorch, several labels": of(lambda: ends(8, 3), task="multilabel"),
        "ONNX file of a network": lambda: (exported_network(N), N),
    }


def exported_network(X: pd.DataFrame) -> Any:
    """A network as an ONNX file of somebody else's."""
    import onnx
    import torch

    from mlworkbench.bundling.networks import exported

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)).eval()
    return load_model(onnx.load_from_string(exported(module, (5,), "float32")), task="regression")


# --- all of them ----------------------------------------------------------------------------------------------------


def of_zoo(name: str) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        estimator = zoo.build(name, dict(all_estimators())[name])
        X, y = zoo.data_for(name, estimator)
        return zoo.fit(estimator, X, y), X

    return make


def of_more(name: str) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        estimator, X, y = zoo.more()[name]
        return zoo.fit(estimator, X, y), X

    return make


@cache
def cases() -> dict[str, Callable[[], tuple[Any, Any]]]:
    return ({name: of_zoo(name) for name, _ in all_estimators()} | {name: of_more(name) for name in zoo.more()}
            | boosters() | networks())


def tried(model: Any, X: Any) -> Optimised:
    """What comes of optimising a fitted model."""
    signature = infer_signature(model, X)
    profile = profile_frame(profile_table(signature, X))
    golden = make_golden(model.estimator, signature, profile, rows=16, tolerance=1e-6)
    return optimise(model, signature, profile, golden, rows=200 if WRITE else 80)


def outcome(found: Optimised) -> str:
    return "yes" if found.accepted else f"no: {found.reason}"


def said() -> dict[str, str]:
    """What the page says of each model."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {row[0].strip("`"): row[1] for row in cells}


FIRST = ("RandomForestClassifier", "HistGradientBoostingClassifier", "LogisticRegression", "XGBClassifier, 2 classes",
         "LGBMClassifier, 3 classes", "PyTorch, one probability", "texts in a list", "native categories", "Isomap",
         "several labels as indicators", "StackingClassifier", "a sparse matrix")


@pytest.mark.parametrize("name", list(cases()))
def test_a_model_is_converted_and_equal_or_the_reason_is_told(name, size, measured):
    places = [*FIRST, *(n for n in cases() if n not in FIRST)]
    step = max(1, (len(places) - len(FIRST)) // max(1, size("models_optimised") - len(FIRST)))
    place = places.index(name)
    if not (WRITE or place < len(FIRST) or place % step == 0):
        assert name in said()  # its line stands; `make soak` proves it again
        return
    with threadpool_limits(1):
        made, X = cases()[name]()
        try:
            model = load_model(made)
        except InputError as error:
            assert "cannot score new rows" in str(error)
            assert WRITE or said()[name] == "-"
            return
        found = FOUND[name] = tried(model, X)
    if found.accepted:
        assert found.worst <= 1e-6 and found.labels_differ == 0 and found.rows >= 80 and found.speed_up
        measured(difference=f"{found.worst:.0e}", faster=f"{found.speed_up:.0f} times")
    else:
        assert len(found.reason) > 10
    assert WRITE or outcome(found) == said()[name]


HEAD = """# Optimised models

{day}, Python {python}, scikit-learn {sklearn}, onnxruntime {onnxruntime}, {cores} cores. Every estimator of
`sklearn.utils.all_estimators()` that scores new rows, what people bring beyond their defaults (`tests/zoo.py`), boosters
and networks: converted by `bundling.optimise` and asked, beside the original, about its golden rows, rows drawn from the
profile, rows at its jumps, of all categories and almost known ones, and with gaps. *Difference*: the largest of any number,
absolute below 1 and relative above; labels are always the same. *Before* and *after*: one row through the original and
through the copy, in µs, as the service asks them, on this machine. Written by `tests/integration/test_optimised_models.py`
(`MLW_WRITE=1`), which holds the second column.

| models | optimised | largest difference of all | median speed of one row |
|---|---|---|---|
| {count} | {accepted} | {worst:.0e} | {median:.0f} times |

| model | optimised | difference | before, µs | after, µs |
|---|---|---|---|---|
{lines}
"""


def line(name: str) -> str:
    found = FOUND.get(name)
    if found is None:
        return f"| `{name}` | - | | | |"
    if not found.accepted:
        return f"| `{name}` | {outcome(found)} | | | |"
    before, after = (found.speed[when]["1 row"] * 1e6 for when in ("before", "after"))
    return f"| `{name}` | yes | {found.worst:.0e} | {before:,.0f} | {after:.0f} |"


def test_the_page_says_what_was_found():
    import onnxruntime
    import sklearn

    if WRITE:
        accepted = [found for found in FOUND.values() if found.accepted]
        PAGE.write_text(HEAD.format(
            day=datetime.date.today().isoformat(), python=platform.python_version(), sklearn=sklearn.__version__,
            onnxruntime=onnxruntime.__version__, cores=os.cpu_count(), count=len(FOUND), accepted=len(accepted),
            worst=max(found.worst for found in accepted), median=float(np.median([found.speed_up for found in accepted])),
            lines="\n".join(line(name) for name in cases()),
        ), encoding="utf-8")
    told = said()
    assert list(told) == list(cases())
    lines = PAGE.read_text(encoding="utf-8")
    count = sum(cell == "yes" for cell in told.values())
    assert re.search(rf"^\| {sum(cell != '-' for cell in told.values())} \| {count} \|", lines, re.MULTILINE)
    assert all(cell == "-" or cell == "yes" or cell.startswith("no: ") for cell in told.values())


# --- what a served model takes --------------------------------------------------------------------------------------

ASK = """
import json, sys

class Closed:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pandas", "sklearn", "scipy", "onnx", "joblib", "skops"):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Closed())
import numpy
from mlworkbench.serving.runtimes import load_estimator
model = load_estimator(sys.argv[1], json.load(open(sys.argv[1] + "/about.json")))
columns = json.load(open(sys.argv[1] + "/columns.json"))
found = model.ask_columns(columns, 50)
rows = numpy.array(list(columns.values()), dtype=object).T
assert (model.predict_proba(rows) == found["probabilities"]).all()
print(json.dumps({"labels": found["predictions"].tolist(), "chances": found["probabilities"].tolist()}))
"""


def test_a_process_without_pandas_and_scikit_learn_opens_and_asks_a_converted_model(tmp_path):
    X = zoo.numbers()[["height", "weight"]].assign(colour=zoo.kinds()["colour"]).head(50)
    columns = zoo.make_column_transformer((zoo.OneHotEncoder(), ["colour"]), remainder="passthrough")
    model = make_pipeline(columns, zoo.RandomForestClassifier(5, random_state=0)).fit(X, zoo.classes(3)[:50])
    made = convert_estimator(model, infer_signature(wrap(model), X))
    (tmp_path / "model.onnx").write_bytes(made.content)
    (tmp_path / "about.json").write_text(json.dumps({"file": "model.onnx", **made.about}))
    (tmp_path / "columns.json").write_text(json.dumps({name: X[name].tolist() for name in X}))
    done = subprocess.run([sys.executable, "-c", ASK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == {"labels": model.predict(X).tolist(), "chances": model.predict_proba(X).tolist()}
