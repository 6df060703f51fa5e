"""Models from files and tags: what opens, what does not, and what each refusal says."""

import importlib
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn import (
    calibration,
    ensemble,
    gaussian_process,
    linear_model,
    model_selection,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
)
from sklearn.datasets import load_iris

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.model.loading import load_model, save_model
from mlworkbench.model.scikit_learn import skops_types
from mlworkbench.model.trusted import trusted_types

X, Y = load_iris(return_X_y=True)
MODELS = [
    ensemble.HistGradientBoostingClassifier(max_iter=3), ensemble.HistGradientBoostingRegressor(max_iter=3),
    ensemble.RandomForestClassifier(3), ensemble.ExtraTreesRegressor(3), ensemble.GradientBoostingClassifier(n_estimators=3),
    ensemble.AdaBoostClassifier(n_estimators=3), ensemble.BaggingRegressor(n_estimators=3),
    ensemble.StackingClassifier([("line", linear_model.LogisticRegression(max_iter=500))]),
    ensemble.VotingClassifier([("bayes", naive_bayes.GaussianNB())], voting="soft"),
    neighbors.KNeighborsClassifier(algorithm="kd_tree"), neighbors.KNeighborsRegressor(algorithm="ball_tree"),
    neighbors.KNeighborsClassifier(metric="manhattan"), svm.SVC(probability=False),
    calibration.CalibratedClassifierCV(svm.LinearSVC()), gaussian_process.GaussianProcessClassifier(),
    neural_network.MLPClassifier(max_iter=5), linear_model.TweedieRegressor(power=1.5),
    model_selection.GridSearchCV(naive_bayes.GaussianNB(), {"var_smoothing": [1e-9, 1e-8]}),
    pipeline.make_pipeline(preprocessing.KBinsDiscretizer(3, encode="onehot-dense"), naive_bayes.GaussianNB()),
    pipeline.make_pipeline(preprocessing.QuantileTransformer(n_quantiles=20), linear_model.Ridge()),
]


@pytest.mark.parametrize("estimator", MODELS, ids=lambda e: str(e)[:50])
def test_a_model_predicts_the_same_after_saving_and_loading(estimator, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator.fit(X, Y)
    loaded = load_model(save_model(fitted, tmp_path / "it.skops"))
    assert (loaded.predict(X) == fitted.predict(X)).all()
    assert loaded.name == "it" and len(loaded.sha256) == 64 and loaded.trusted == tuple(skops_types(tmp_path / "it.skops"))


def test_every_type_that_is_opened_without_asking_is_a_class_of_the_three_libraries():
    for name in sorted(trusted_types()):
        module, _, attribute = name.rpartition(".")
        assert name.split(".")[0] in ("numpy", "scipy", "sklearn")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError):  # a name that only another version of the library has
            continue
        assert isinstance(found, type), f"{name} is no class"


class Planted:
    """A type that nobody named."""

    def predict(self, X):
        return np.zeros(len(X))

    def __init__(self):
        self.n_features_in_ = 4


def test_a_planted_type_is_listed_and_opened_only_when_named(tmp_path):
    path = tmp_path / "planted.skops"
    skops.io.dump(linear_model.LogisticRegression(max_iter=500).fit(X, Y).set_params(class_weight=None), path)
    hidden = linear_model.LogisticRegression(max_iter=500).fit(X, Y)
    hidden.extra_ = Planted()
    skops.io.dump(hidden, path)
    with pytest.raises(InputError, match="all types in it must be trusted, got .*Planted"):
        load_model(path)
    name = f"{Planted.__module__}.Planted"
    with pytest.raises(InputError, match="Planted"):
        load_model(path, trusted=["sklearn.something.Else"])
    if importlib.util.find_spec(Planted.__module__.split(".")[0]):  # the test's own module can be imported by name
        assert name in load_model(path, trusted=[name]).trusted


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("suffix", [".pkl", ".joblib", ".pickle"])
def test_an_untrusted_pickle_runs_nothing(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(f"bomb{suffix}").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="must be trusted before it is opened.*trust=True"):
        load_model(f"bomb{suffix}")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("suffix", [".pkl", ".joblib"])
def test_a_trusted_pickle_opens(suffix, tmp_path):
    fitted = naive_bayes.GaussianNB().fit(X, Y)
    joblib.dump(fitted, tmp_path / f"bayes{suffix}")
    loaded = load_model(tmp_path / f"bayes{suffix}", trust=True)
    assert loaded.kind == "multiclass" and (loaded.predict(X) == fitted.predict(X)).all()


@pytest.mark.parametrize(("name", "content", "told"), [
    ("text.skops", b"hello", "it must be a skops file"),
    ("empty.skops", b"", "it must be a skops file"),
    ("text.pkl", b"hello", "it must be a pickle that this environment can build"),
    ("empty.joblib", b"", "it must be a pickle that this environment can build"),
    ("frame.pkl", pickle.dumps({"a": 1}), "a fitted estimator"),
    ("elsewhere.pkl", b"\x80\x04c__main__\nNoSuchThing\n.", "it must be a pickle that this environment can build"),
    ("model.h5", b"hello", "a model file must end in"),
])
def test_a_file_that_is_no_model_says_so(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told):
        load_model(tmp_path / name, trust=True)


def test_a_zip_that_is_no_model_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip.skops", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="it must be a skops file"):
        load_model(tmp_path / "zip.skops")


def test_a_path_that_does_not_exist_offers_the_closest(tmp_path):
    save_model(naive_bayes.GaussianNB().fit(X, Y), tmp_path / "churn.skops")
    with pytest.raises(NotFound, match="Did you mean 'churn.skops'"):
        load_model(tmp_path / "chrun.skops")
    with pytest.raises(NotFound, match="must exist"):
        load_model(tmp_path / "no folder" / "churn.skops")
    with pytest.raises(NotFound, match="a bundle that holds a model"):
        load_model(tmp_path)


def test_a_bundles_folder_is_a_model(tmp_path):
    (tmp_path / "src" / "model").mkdir(parents=True)
    save_model(naive_bayes.GaussianNB().fit(X, Y), tmp_path / "src" / "model" / "model.skops")
    assert load_model(str(tmp_path)).name == "gaussiannb"


def test_saving_leaves_no_half_file_behind(tmp_path):
    fitted = naive_bayes.GaussianNB().fit(X, Y)
    fitted.callback = open  # noqa: SIM115 (skops refuses it)
    fitted.generator = (i for i in range(3))
    with pytest.raises((InputError, TypeError)):
        save_model(fitted, tmp_path / "it.skops")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="must end in"):
        save_model(naive_bayes.GaussianNB().fit(X, Y), tmp_path / "it.bin")
    with pytest.raises(InputError, match="folder must be there"):
        save_model(naive_bayes.GaussianNB().fit(X, Y), tmp_path / "nowhere" / "it.skops")


def test_a_tag_of_the_bentoml_store(place):
    import bentoml

    fitted = naive_bayes.GaussianNB().fit(X, Y)
    tag = str(bentoml.sklearn.save_model("iris", fitted).tag)
    with pytest.raises(InputError, match="must be trusted"):
        load_model(f"bentoml:{tag}")
    assert (load_model(f"bentoml:{tag}", trust=True).predict(X) == fitted.predict(X)).all()
    assert load_model("bentoml:iris:latest", trust=True).kind == "multiclass"
    with pytest.raises(NotFound, match="the tag must be in the BentoML store"):
        load_model("bentoml:irsi:latest")
    with pytest.raises(NotFound):
        load_model("bentoml:")


def test_opening_a_skops_file_brings_no_other_library_along_and_hides_none_for_good(tmp_path):
    path = tmp_path / "line.skops"
    save_model(linear_model.LogisticRegression().fit(X, Y), path)
    asked = ("import sys, importlib; from mlworkbench.model.loading import load_model; load_model(sys.argv[1]);"
             "assert 'torch' not in sys.modules and 'dask' not in sys.modules;"
             "assert importlib.import_module('sklearn.externals.array_api_compat.torch').__name__")
    done = subprocess.run([sys.executable, "-c", asked, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
