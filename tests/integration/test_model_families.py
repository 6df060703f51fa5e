"""Every family of models: into memory, to a file and back, into a bundle that serves and is proved."""

import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from mlworkbench.core.errors import InputError, MissingPart, NotFound
from mlworkbench.model.families import families, family_named
from mlworkbench.model.loading import load_model, save_model
from mlworkbench.serving.predictor import load_estimator

lightgbm, mlflow, torch, xgboost = (
    pytest.importorskip(name, reason=f'pip install "mlworkbench[{name}]"') for name in ("lightgbm", "mlflow", "torch", "xgboost")
)
pytest.importorskip("onnxruntime", reason='pip install "mlworkbench[onnx]"')
skl2onnx = pytest.importorskip("skl2onnx")

WINE, SUGAR = load_wine(as_frame=True), load_diabetes(as_frame=True)
X, ROWS = WINE.data, WINE.data.to_numpy("float32")
KINDS = np.array(["barolo", "grignolino", "barbera"])[WINE.target]
QUIET = {"n_jobs": 1, "verbose": -1}


def network(outputs: int, *last) -> "torch.nn.Module":
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.BatchNorm1d(13), torch.nn.Linear(13, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, outputs), *last
    )


def boost(objective: str, y, **more) -> "xgboost.Booster":
    return xgboost.train({"objective": objective, "nthread": 1, **more}, xgboost.DMatrix(X, y), 3)


def light(objective: str, y, **more) -> "lightgbm.Booster":
    return lightgbm.train({"objective": objective, "num_threads": 1, "verbose": -1, **more}, lightgbm.Dataset(X, y), 3)


def converted(estimator, y, **options) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return skl2onnx.to_onnx(estimator.fit(ROWS, y), ROWS[:1], target_opset=18, options=options or None)


TWO, SEVERAL = (WINE.target == 0).astype(int), np.c_[WINE.target == 0, WINE.target == 1].astype(int)
NUMBERS = np.c_[X["alcohol"], X["ash"]]
# name: object, what must be told, the task that results, suffix of a file
OBJECTS = {
    "xgb classifier": (lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, WINE.target), {}, "multiclass", ".ubj"),
    "xgb classifier of booleans": (
        lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, TWO == 1),
        {},
        "binary",
        ".json",
    ),
    "xgb multilabel": (lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, SEVERAL), {}, "multilabel", ".ubj"),
    "xgb regressor": (lambda: xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(X, X["ash"]), {}, "regression", ".ubj"),
    "xgb multitarget": (lambda: xgboost.XGBRegressor(n_estimators=3, n_jobs=1).fit(X, NUMBERS), {}, "multitarget", ".ubj"),
    "xgb forest": (lambda: xgboost.XGBRFClassifier(n_estimators=3, n_jobs=1).fit(X, TWO), {}, "binary", ".ubj"),
    "xgb stopped early": (
        lambda: xgboost.XGBClassifier(n_estimators=40, n_jobs=1, early_stopping_rounds=2, learning_rate=1.0).fit(
            X[::2], TWO[::2], eval_set=[(X[1::2], TWO[1::2])], verbose=False
        ),
        {},
        "binary",
        ".ubj",
    ),
    "xgb missing is -1": (lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1, missing=-1).fit(X, TWO), {}, "binary", ".ubj"),
    "xgb native binary": (lambda: boost("binary:logistic", TWO), {"classes": ["no", "yes"]}, "binary", ".ubj"),
    "xgb native logits": (lambda: boost("binary:logitraw", TWO), {}, "binary", ".ubj"),
    "xgb native hinge": (lambda: boost("binary:hinge", TWO), {"classes": ["no", "yes"]}, "binary", ".json"),
    "xgb native softmax": (
        lambda: boost("multi:softmax", WINE.target, num_class=3),
        {"classes": list("abc")},
        "multiclass",
        ".ubj",
    ),
    "xgb native softprob": (lambda: boost("multi:softprob", WINE.target, num_class=3), {}, "multiclass", ".ubj"),
    "xgb native counts": (lambda: boost("count:poisson", WINE.target), {}, "regression", ".ubj"),
    "lgbm classifier": (lambda: lightgbm.LGBMClassifier(n_estimators=3, **QUIET).fit(X, KINDS), {}, "multiclass", ".txt"),
    "lgbm classifier of booleans": (
        lambda: lightgbm.LGBMClassifier(n_estimators=3, **QUIET).fit(X, TWO == 1),
        {},
        "binary",
        ".lgb",
    ),
    "lgbm regressor": (lambda: lightgbm.LGBMRegressor(n_estimators=3, **QUIET).fit(X, X["ash"]), {}, "regression", ".txt"),
    "lgbm native binary": (lambda: light("binary", TWO), {"classes": ["=no=", "ja, sí"]}, "binary", ".txt"),
    "lgbm native multiclass": (lambda: light("multiclass", WINE.target, num_class=3), {}, "multiclass", ".txt"),
    "lgbm native poisson": (lambda: light("poisson", WINE.target), {}, "regression", ".txt"),
    "torch logits": (lambda: network(3), {"task": "multiclass", "classes": sorted(set(KINDS))}, "multiclass", ".pt"),
    "torch softmax": (lambda: network(3, torch.nn.Softmax(dim=1)), {"task": "multiclass"}, "multiclass", ".pt"),
    "torch log softmax": (lambda: network(2, torch.nn.LogSoftmax(dim=1)), {"task": "binary"}, "binary", ".pth"),
    "torch one logit": (lambda: network(1), {"task": "binary", "classes": [False, True]}, "binary", ".pt"),
    "torch sigmoid": (lambda: network(1, torch.nn.Sigmoid(), torch.nn.Flatten(0)), {"task": "binary"}, "binary", ".pt"),
    "torch labels": (lambda: network(4), {"task": "multilabel"}, "multilabel", ".pt"),
    "torch regression": (lambda: network(1), {"task": "regression"}, "regression", ".pt"),
    "torch several numbers": (lambda: network(2), {"task": "regression"}, "multitarget", ".pt"),
    "torch embedding": (lambda: network(5), {"task": "transform"}, "transform", ".pt"),
    "torch of 64 bits": (lambda: network(1).double(), {"task": "regression"}, "regression", ".pt"),
    "onnx classifier": (lambda: converted(LogisticRegression(max_iter=5000), KINDS), {}, "multiclass", ".onnx"),
    "onnx without maps": (
        lambda: converted(LogisticRegression(max_iter=5000), WINE.target, zipmap=False),
        {},
        "multiclass",
        ".onnx",
    ),
    "onnx regression": (lambda: converted(Ridge(), X["ash"]), {"task": "regression"}, "regression", ".onnx"),
    "onnx transformer": (lambda: converted(StandardScaler(), None), {"task": "transform"}, "transform", ".onnx"),
}


def answers(model, rows):
    """Everything a model says."""
    said = [model.transform(rows)] if model.kind == "transform" else [model.predict(rows)]
    chances = model.predict_proba(rows)
    return said + ([] if chances is None else [chances])


@pytest.mark.parametrize("name", OBJECTS)
def test_a_model_of_any_family_answers_the_same_after_saving_and_loading(name, tmp_path):
    make, told, task, suffix = OBJECTS[name]
    model = load_model(make(), **told)
    assert model.kind == task
    again = load_model(save_model(model, tmp_path / f"it{suffix}"), trust=model.family == "PyTorch")
    assert (again.kind, again.classes, again.columns, again.features) == (
        model.kind,
        model.classes,
        model.columns,
        model.features,
    )
    for before, after in zip(answers(model, X), answers(again, X), strict=True):
        assert before.shape == after.shape and before.shape[0] == len(X)
        assert (before == after).all() and before.tolist()[0:1][0].__class__ is after.tolist()[0:1][0].__class__
    if model.classes and model.kind in ("binary", "multiclass"):
        assert set(model.predict(X).tolist()) <= set(model.classes)
    chances = model.predict_proba(X)
    assert chances is None or model.kind == "multilabel" or np.allclose(chances.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", OBJECTS)
def test_what_the_manifest_says_is_enough_to_open_a_model_in_service(name, tmp_path):
    make, told, _, _ = OBJECTS[name]
    model = load_model(make(), **told)
    about = json.loads(json.dumps(family_named(model.family).ship(model, tmp_path)))
    served = load_estimator(tmp_path, about)
    wanted = model.transform(X) if model.kind == "transform" else model.predict(X)
    got = served.transform(X) if model.kind == "transform" else served.predict(X)
    assert (got == wanted).all()
    assert hasattr(served, "predict_proba") == (model.predict_proba(X) is not None)
    if hasattr(served, "predict_proba"):
        assert (served.predict_proba(X) == model.predict_proba(X)).all()


def test_the_numbers_are_the_librarys_own():
    booster = boost("binary:logistic", TWO)
    assert (load_model(booster).predict_proba(X)[:, 1] == booster.predict(xgboost.DMatrix(X))).all()
    fitted = light("multiclass", WINE.target, num_class=3)
    assert (load_model(fitted).predict_proba(X) == fitted.predict(X)).all()
    module = network(3).eval()
    with torch.no_grad():
        wanted = torch.softmax(module(torch.tensor(ROWS)).double(), dim=1).numpy()
    assert np.abs(load_model(module, task="multiclass").predict_proba(X) - wanted).max() < 1e-12
    line = LogisticRegression(max_iter=5000).fit(ROWS, KINDS)
    model = load_model(converted(LogisticRegression(max_iter=5000), KINDS))
    assert (model.predict(X) == line.predict(ROWS)).all() and np.abs(
        model.predict_proba(X) - line.predict_proba(ROWS)
    ).max() < 1e-5


def test_lightgbm_knows_columns_by_their_names_with_spaces():
    from mlworkbench.model.data import check_columns

    spaced = X.rename(columns={"alcohol": "alcohol by volume"})
    model = load_model(lightgbm.LGBMClassifier(n_estimators=3, **QUIET).fit(spaced, KINDS))
    assert "alcohol_by_volume" in model.columns
    shuffled = check_columns(model, spaced[spaced.columns[::-1]])
    assert list(shuffled.columns) == list(spaced.columns)
    with pytest.raises(InputError, match="no 'alcohol_by_volume'"):
        check_columns(model, X)


def test_a_network_for_pictures_learns_their_shape_from_the_first_that_it_is_asked_about(tmp_path):
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).normal(size=(20, 1, 8, 8))
    seen = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 3), torch.nn.Softmax(dim=1))
    model = load_model(seen, task="multiclass", classes=["cat", "dog", "owl"])
    with pytest.raises(InputError, match="asked once before it is saved"):
        save_model(model, tmp_path / "seen.pt")
    with torch.no_grad():
        wanted = seen.eval()(torch.tensor(pictures, dtype=torch.float32)).numpy()
    assert (model.predict_proba(pictures) == wanted).all() and model.about["gives"] == "probabilities"
    again = load_model(save_model(model, tmp_path / "seen.pt"), trust=True)
    assert (again.predict_proba(pictures) == wanted).all() and again.classes == ("cat", "dog", "owl")


def test_a_booster_within_a_pipeline_is_opened_from_skops_without_asking(tmp_path):
    for last, y in (
        (xgboost.XGBClassifier(n_estimators=3, n_jobs=1), WINE.target),
        (xgboost.XGBRegressor(n_estimators=3), X["ash"]),
        (lightgbm.LGBMClassifier(n_estimators=3, **QUIET), KINDS),
        (lightgbm.LGBMRegressor(n_estimators=3, **QUIET), X["ash"]),
    ):
        fitted = make_pipeline(StandardScaler(), last).fit(X, y)
        again = load_model(save_model(fitted, tmp_path / "pipeline.skops"))
        assert again.family == "scikit-learn" and (again.predict(X) == fitted.predict(X)).all()
        alone = load_model(save_model(last, tmp_path / "alone.skops"))
        assert alone.family in ("XGBoost", "LightGBM")


@pytest.mark.parametrize("face", ["lgbm", "lgbm native", "xgb", "xgb native"])
def test_a_booster_with_categories_answers_rows_of_a_csv(face, tmp_path):
    from mlworkbench.evaluation.evaluate import evaluate
    from mlworkbench.model.data import check_features, read_table

    draw = np.random.default_rng(0)
    towns = draw.choice(["ulm", "bonn", "köln" if "lgbm" in face else "kiel"], 200)
    frame = pd.DataFrame({"height": draw.normal(size=200), "home town": pd.Categorical(towns),
                          "code": pd.Categorical(draw.choice([10, 20, 30], 200))})  # fmt: skip
    y = ((frame["height"] > 0) ^ (frame["home town"] == "ulm")).astype(int)
    model = load_model({
        "lgbm": lambda: lightgbm.LGBMClassifier(n_estimators=3, **QUIET).fit(frame, y),
        "lgbm native": lambda: lightgbm.train(
            {"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(frame, y), 3),
        "xgb": lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1, enable_categorical=True).fit(frame, y),
        "xgb native": lambda: xgboost.train(
            {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(frame, y, enable_categorical=True), 3),
    }[face]())  # fmt: skip
    frame.assign(y=y).to_csv(tmp_path / "rows.csv", index=False)
    rows = read_table(tmp_path / "rows.csv").drop(columns="y")
    for opened in (model, load_model(save_model(model, tmp_path / ("it.txt" if "lgbm" in face else "it.ubj")))):
        checked = check_features(opened, rows)
        assert (opened.predict_proba(checked) == model.predict_proba(frame)).all()
        with pytest.raises(InputError, match="'home town': it must hold the categories that the model learned"):
            check_features(opened, rows.assign(**{"home town": "rome"}))
    assert evaluate(model, rows, y, resamples=0, skip=["explanation", "robustness"]).task == "binary"


@pytest.mark.parametrize("towns", [["ulm", "bonn", "köln"], ["aa", "zö"]])
def test_categories_that_xgboost_does_not_keep_whole_are_asked_for_by_their_type(towns):
    from mlworkbench.model.data import check_features

    names = np.resize(towns, len(X))
    rows = X.assign(town=pd.Categorical(names))
    model = load_model(xgboost.XGBClassifier(n_estimators=2, n_jobs=1, enable_categorical=True).fit(rows, TWO))
    assert model.about["categories"] == {"town": None}
    assert (model.predict(check_features(model, rows)) == model.predict(rows)).all()
    with pytest.raises(InputError, match="'town': it must be of the type category.*give the rows as Parquet"):
        check_features(model, X.assign(town=names))


def test_the_container_that_lightgbm_keeps_is_accepted_only_beside_it(tmp_path):
    from collections import OrderedDict, defaultdict

    import skops.io

    from mlworkbench.model.trusted import BESIDE

    built_in = {"XGBoost": "xgboost", "LightGBM": "lightgbm"}
    for family in families():
        assert {name.split(".")[0] for name in family.trusted} <= {built_in.get(family.name)}, family.name
    assert BESIDE == {"lightgbm.basic.Booster": {"collections.OrderedDict"}}
    line = Ridge().fit(X, X["ash"])
    line.more_ = defaultdict(OrderedDict)
    skops.io.dump(line, tmp_path / "line.skops")
    with pytest.raises(InputError, match="all types in it must be trusted, got collections.OrderedDict"):
        load_model(tmp_path / "line.skops")


# --- what a file cannot tell, and what is no file of its family ------------------------------------------------------


@pytest.mark.parametrize(
    ("thing", "told", "message"),
    [
        (lambda: network(3), {}, "its task must be known.*Pass task="),
        (lambda: network(3), {"task": "clasification"}, "must be a known one, got 'clasification'"),
        (lambda: network(3), {"task": "multiclass", "classes": ["a", "b"]}, r"a number a class \(2\), got 3 numbers"),
        (lambda: network(3), {"task": "binary"}, r"a number a class \(2\), got 3 numbers"),
        (lambda: converted(Ridge(), X["ash"]), {}, "its task must be known"),
        (lambda: boost("binary:logistic", TWO), {"classes": ["a", "b", "c"]}, "must have two classes"),
        (lambda: xgboost.XGBRegressor(), {}, "unfitted XGBRegressor. Call its fit first"),
        (lambda: lightgbm.LGBMClassifier(), {}, "unfitted LGBMClassifier. Call its fit first"),
        (lambda: len, {"task": "multiclass"}, "its classes must be known.*Pass classes="),
    ],
)
def test_what_must_be_told_is_asked_for(thing, told, message):
    with pytest.raises(InputError, match=message):
        load_model(thing(), **told)


@pytest.mark.parametrize("name", ["it.ubj", "it.json", "it.txt", "it.pt", "it.onnx", "it.cloudpickle"])
@pytest.mark.parametrize("content", [b"", b"hello", b"{}", b"tree\nversion=v4\n", b"PK\x03\x04 no zip"])
def test_a_broken_file_is_told_as_one(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"model {name}: it must"):
        load_model(tmp_path / name, task="regression", trust=True)


def test_a_model_is_saved_in_its_own_format_only(tmp_path):
    with pytest.raises(InputError, match="a file of ONNX must hold such a model, got scikit-learn"):
        save_model(Ridge().fit(X, X["ash"]), tmp_path / "it.onnx")
    with pytest.raises(InputError, match=r"Save it as .pt or"):
        save_model(load_model(network(1), task="regression"), tmp_path / "it.skops")


# --- nothing runs that was not trusted ----------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def planted(source: Path, target: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(target, "w") as copy:
        for entry in whole.namelist():
            copy.writestr(entry, content if entry.endswith(name) else whole.read(entry))
    return target


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["/data.pkl", "/constants.pkl"])
def test_a_pickle_planted_in_a_torchscript_archive_does_not_run(place, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_model(load_model(network(1), task="regression"), tmp_path / "it.pt")
    evil = planted(path, tmp_path / "evil.pt", place, pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(InputError, match="must be trusted before it is opened"):
        load_model(evil)
    with pytest.raises(InputError, match="must be a TorchScript archive"):
        load_model(evil, trust=True)
    assert not Path("exploded").exists()


def test_pickled_modules_and_exported_programs_wait_for_trust(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(network(1), "module.pt")
    torch.save(Bomb(), "bomb.pth")
    torch.export.save(
        torch.export.export(network(1).eval(), (torch.zeros(4, 13),), dynamic_shapes=({0: torch.export.Dim("rows")},)),
        "module.pt2",
    )
    torch.save(network(1).state_dict(), "weights.pth")
    for name in ("module.pt", "bomb.pth", "module.pt2", "weights.pth"):
        with pytest.raises(InputError, match="must be trusted before it is opened"):
            load_model(name, task="regression")
    assert not Path("exploded").exists()
    wanted = load_model(network(1), task="regression").predict(X)
    for name in ("module.pt", "module.pt2"):
        opened = load_model(name, task="regression", trust=True)
        assert np.allclose(opened.predict(X), wanted, atol=1e-6)
        again = load_model(save_model(opened, f"{Path(name).stem}-again.pt"), trust=True)
        assert np.allclose(again.predict(X), wanted, atol=1e-6)
    with pytest.raises(InputError, match="it must hold a module, got a .*Dict.*load the weights into it"):
        load_model("weights.pth", task="regression", trust=True)


@pytest.mark.parametrize("spelling", ["torch.from_file", "torch . from_file", "ops.aten.from_file"])
def test_a_torchscript_program_that_writes_files_waits_for_trust(spelling, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept" * 4)

    class Writer(torch.nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file(self.path, True, 4).fill_(0.0).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Writer(str(victim)))
        scripted.save(str(tmp_path / "plain.pt"))
    with zipfile.ZipFile(tmp_path / "plain.pt") as whole:
        place = next(name for name in whole.namelist() if name.endswith(".py") and b"torch.from_file" in whole.read(name))
        program = whole.read(place).replace(b"torch.from_file", spelling.encode())
    planted(tmp_path / "plain.pt", tmp_path / "writer.pt", place, program)
    with pytest.raises(InputError, match="writer.pt: a file of PyTorch must be trusted before it is opened"):
        load_model(tmp_path / "writer.pt", task="regression")
    assert victim.read_bytes() == b"kept" * 4
    scripted(torch.zeros(1, 1))
    assert victim.read_bytes() != b"kept" * 4, "the program does write, once it is asked"


def test_a_cloudpickle_waits_for_trust(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bomb.cloudpickle").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="must be trusted.*module:function"):
        load_model("bomb.cloudpickle", task="regression")
    assert not Path("exploded").exists()
    model = load_model(lambda rows: rows["ash"] * 2, task="regression")
    save_model(model, "double.cloudpickle")
    assert (load_model("double.cloudpickle", task="regression", trust=True).predict(X) == X["ash"] * 2).all()


# --- functions ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """A folder with a package and a file that use each other."""
    folder = tmp_path / "rules"
    (folder / "house_rules").mkdir(parents=True)
    (folder / "house_rules" / "__init__.py").write_text("")
    (folder / "house_rules" / "limits.py").write_text("STRONG = 13.0\n")
    (folder / "score_rules.py").write_text(
        "import numpy as np\nfrom house_rules.limits import STRONG\n\n\n"
        "def label(X):\n    return np.where(X['alcohol'] > STRONG, 'strong', 'light')\n\n\n"
        "def predict_proba(X):\n    p = np.clip((X['alcohol'] - 11) / 4, 0, 1)\n    return np.c_[1 - p, p]\n\n\n"
        "def short(X):\n    return [1.0]\n\n\ndef number(X):\n    return X['alcohol'] * 2\n"
    )
    monkeypatch.chdir(folder)
    yield folder
    for name in ("score_rules", "house_rules", "house_rules.limits"):
        sys.modules.pop(name, None)
    sys.path[:] = [entry for entry in sys.path if entry != str(folder)]


def test_a_function_by_reference_brings_its_source_and_what_it_imports(rules, tmp_path):
    model = load_model("score_rules:label", task="binary", classes=["light", "strong"])
    about = family_named("function").ship(model, tmp_path / "bundle") if (tmp_path / "bundle").mkdir() is None else {}
    found = sorted(p.relative_to(tmp_path / "bundle").as_posix() for p in (tmp_path / "bundle").rglob("*.py"))
    assert found == ["model/code/house_rules/__init__.py", "model/code/house_rules/limits.py", "model/code/score_rules.py"]
    assert about["function"] == "score_rules:label" and family_named("function").modules(model) == {"numpy"}
    assert set(model.predict(X)) == {"light", "strong"} and not hasattr(model.estimator, "predict_proba")
    chances = load_model("score_rules.py:predict_proba", task="binary", classes=["light", "strong"])
    assert chances.predict_proba(X).shape == (178, 2)
    (rules / "house_rules" / "limits.py").write_text("STRONG = 12.0\n")
    assert load_model("score_rules:label", task="binary", classes=["light", "strong"]).sha256 != model.sha256


def test_what_is_wrong_with_a_reference_is_told(rules):
    with pytest.raises(NotFound, match="Did you mean 'label'"):
        load_model("score_rules:labell", task="regression")
    with pytest.raises(NotFound, match="the module must be one that can be imported, got 'score_rulez'"):
        load_model("score_rulez:label", task="regression")
    with pytest.raises(NotFound, match="Did you mean 'score_rules.py'"):
        load_model("score_rule.py:label", task="regression")
    with pytest.raises(ValueError, match="one answer a row, got 1 answers for 178 rows"):
        load_model("score_rules:short", task="regression").predict(X)
    with pytest.raises(ValueError, match="must give one of its classes"):
        load_model("score_rules:number", task="binary").predict(X)


# --- MLflow -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry in SQLite with a model of every flavour."""
    from mlworkbench.model.trusted import trusted_types

    place = tmp_path_factory.mktemp("mlflow")
    before, here = os.environ.get("MLFLOW_TRACKING_URI"), Path.cwd()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db"}
    os.chdir(place)
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])

    class Doubled(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            return model_input["ash"].to_numpy() * 2

    def log(flavour, model, name, **more):
        return flavour.log_model(
            model, name=name, registered_model_name=name, pip_requirements=["mlflow", "numpy"], **more
        ).model_uri

    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(5, random_state=0).fit(X, KINDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log(mlflow.sklearn, forest, "forest", serialization_format="skops", skops_trusted_types=sorted(trusted_types()))
        log(mlflow.sklearn, forest, "pickled", serialization_format="cloudpickle")
        log(mlflow.xgboost, xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(X, WINE.target), "xgb")
        log(mlflow.lightgbm, lightgbm.LGBMClassifier(n_estimators=3, **QUIET).fit(X, KINDS), "lgbm")
        log(mlflow.lightgbm, light("binary", TWO), "lgbm-native")
        log(mlflow.onnx, converted(LogisticRegression(max_iter=5000), KINDS), "graph")
        run = mlflow.start_run()
        mlflow.pyfunc.log_model(
            name="double", python_model=Doubled(), registered_model_name="double", pip_requirements=["mlflow", "numpy"]
        )
        mlflow.end_run()
        mlflow.MlflowClient().set_registered_model_alias("forest", "champion", 1)
    yield {"forest": forest, "run": run.info.run_id}
    os.chdir(here)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if before is not None:
        os.environ["MLFLOW_TRACKING_URI"] = before


def test_a_model_of_mlflow_is_opened_by_the_family_of_what_is_inside(registry):
    for address in ("models:/forest@champion", "models:/forest/1"):
        model = load_model(f"mlflow:{address}")
        assert (model.name, model.family, model.source) == ("forest", "scikit-learn", f"mlflow:{address}")
        assert (model.predict(X) == registry["forest"].predict(X)).all()
    found = {name: load_model(f"mlflow:models:/{name}/1").family for name in ("xgb", "lgbm", "lgbm-native", "graph")}
    assert found == {"xgb": "XGBoost", "lgbm": "LightGBM", "lgbm-native": "LightGBM", "graph": "ONNX"}


def test_what_mlflow_keeps_as_code_waits_for_trust(registry):
    with pytest.raises(InputError, match="a pickle must be trusted"):
        load_model("mlflow:models:/pickled/1")
    assert (load_model("mlflow:models:/pickled/1", trust=True).predict(X) == registry["forest"].predict(X)).all()
    with pytest.raises(InputError, match="only MLflow can open must be trusted first"):
        load_model("mlflow:models:/double/1", task="regression")
    with pytest.raises(InputError, match="Pass task="):
        load_model("mlflow:models:/double/1", trust=True)
    model = load_model(f"mlflow:runs:/{registry['run']}/double", task="regression", trust=True)
    assert model.family == "MLflow" and (model.predict(X) == X["ash"] * 2).all()


def test_an_address_that_mlflow_does_not_know_offers_the_closest(registry, tmp_path):
    with pytest.raises(NotFound, match="Did you mean 'models:/forest/1'"):
        load_model("mlflow:models:/forrest/1")
    with pytest.raises(NotFound, match="MLflow must know the address"):
        load_model(f"mlflow:{tmp_path}/nothing")


# --- the registry of families -------------------------------------------------------------------------------------------


def test_a_library_that_is_missing_is_named_with_the_line_to_type(tmp_path, monkeypatch):
    path = save_model(boost("binary:logistic", TWO), tmp_path / "it.ubj")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingPart, match=r'pip install "mlworkbench\[xgboost\]"'):
        load_model(path)


class Entry:
    def __init__(self, name, load):
        self.name, self.load = name, load


def test_a_third_party_adds_a_family_and_a_faulty_one_hides_nothing(monkeypatch, tmp_path):
    from mlworkbench.model import families as room

    class Text(room.Family):
        name, suffixes, formats = "rules in text", (".rules",), ("rules",)

        def takes(self, thing):
            return isinstance(thing, dict) and "column" in thing

        def wrap(self, thing, told):
            from mlworkbench.serving.runtimes import scored

            facts = told.known(task="regression", columns=[thing["column"]])
            return room.Model(
                scored(lambda rows: rows[thing["column"]] * thing["times"], facts),
                "rules",
                "regression",
                family=self.name,
                format="rules",
                native=thing,
                about=facts,
                sha256=told.sha256,
            )

        def open(self, path, told):
            return self.wrap(json.loads(path.read_text()), told)

        def save(self, model, path):
            path.write_text(json.dumps(model.native))
            return {"format": "rules", "loader": "text_rules.serve:open_rules", **model.about}

    def broken():
        raise RuntimeError("no good")

    entries = [Entry("broken", broken), Entry("text", lambda: Text), Entry("odd", lambda: 3)]
    monkeypatch.setattr(room.metadata, "entry_points", lambda group: entries)
    with pytest.warns(UserWarning, match="'broken' is passed over .RuntimeError: no good|'odd' is passed over"):
        names = [family.name for family in families()]
        assert names[0] == "rules in text" and names[-1] == "scikit-learn" and len(names) == 9
        model = load_model({"column": "ash", "times": 2})
        again = load_model(save_model(model, tmp_path / "ours.rules"))
        assert (again.predict(X) == X["ash"] * 2).all()
        assert load_model(Ridge().fit(X, X["ash"])).family == "scikit-learn"


def test_no_library_of_a_family_is_imported_before_it_is_needed(tmp_path):
    heavy = ["xgboost", "lightgbm", "torch", "onnx", "onnxruntime", "mlflow"]
    code = (
        "import sys, mlworkbench as mlw; from sklearn.linear_model import Ridge; mlw.load_model(Ridge().fit([[1], [2]], [1, 2]));"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_function_inside_a_model_must_be_named(tmp_path):
    from sklearn.feature_selection import SelectKBest, f_classif

    fitted = make_pipeline(SelectKBest(f_classif, k=3), FunctionTransformer(), LogisticRegression(max_iter=5000)).fit(X, KINDS)
    path = save_model(fitted, tmp_path / "best.skops")
    with pytest.raises(InputError, match="f_classif"):
        load_model(path)
    assert (
        load_model(path, trusted=["sklearn.feature_selection._univariate_selection.f_classif"]).predict(X) == fitted.predict(X)
    ).all()
