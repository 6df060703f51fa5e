"""The lock: what the service imports and the model is made of, and nothing of the notebook."""

import sys
import types
from importlib import metadata

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mlworkbench.bundling import environment, lock
from mlworkbench.bundling.content import write_code
from mlworkbench.core.errors import InputError


@pytest.fixture(scope="module")
def pins(tmp_path_factory):
    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    code = write_code(tmp_path_factory.mktemp("code") / "src")
    return lock.make_lock(code, {"skops", *lock.object_modules(model)}, also=["pandas"])


def test_a_lock_holds_the_versions_that_are_installed(pins):
    assert {"bentoml", "numpy", "pandas", "scikit-learn", "scipy", "skops", "orjson", "uvloop"} <= set(pins)
    assert all(metadata.version(name) == version for name, version in pins.items())


def test_a_lock_holds_nothing_of_notebooks_and_nothing_for_training_alone(pins):
    assert not {*lock.BARRED, "nbconvert", "matplotlib", "duckdb"} & set(pins)
    lock.check_installable(pins)


def test_a_service_that_asks_by_columns_carries_no_frames_and_no_training_library(tmp_path):
    pins = lock.make_lock(write_code(tmp_path / "src"), {"onnxruntime"})
    assert {"bentoml", "numpy", "onnxruntime", "orjson"} <= set(pins)
    assert not {"pandas", "scipy", "scikit-learn", "skops", "joblib", "onnx"} & set(pins)


def test_a_lock_names_no_index_whatever_pip_and_uv_are_told(pins, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "https://canary:word@index.example/simple")
    text = lock.render_lock(pins)
    assert "canary" not in text and "://" not in text and "--" not in text
    assert all("==" in line for line in text.splitlines()[1:])


def test_a_package_of_the_model_is_locked_though_the_service_does_not_import_it(tmp_path):
    import matplotlib.cbook

    (tmp_path / "service.py").write_text("import json\n")
    model = make_pipeline(FunctionTransformer(matplotlib.cbook.normalize_kwargs), LogisticRegression())
    assert "matplotlib" in lock.make_lock(tmp_path, lock.object_modules(model))
    assert "matplotlib" not in lock.make_lock(tmp_path, lock.object_modules(LogisticRegression()))


def test_a_class_of_a_notebook_is_refused_with_what_to_do(monkeypatch):
    module = types.ModuleType("__main__")
    exec("class Doubler:\n    def predict(self, X):\n        return X\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", module)
    with pytest.raises(InputError, match="class or function of this notebook. Put it into a package"):
        lock.distributions_of(lock.object_modules(module.Doubler()))


def test_a_file_beside_the_notebook_is_refused(tmp_path, monkeypatch):
    (tmp_path / "beside_the_notebook.py").write_text("class Doubler:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_the_notebook

    with pytest.raises(InputError, match="'beside_the_notebook'"):
        lock.distributions_of(lock.object_modules(beside_the_notebook.Doubler()))


class FakeDistribution:
    def __init__(self, direct):
        self.direct = direct

    def read_text(self, name):
        return self.direct if name == "direct_url.json" else None


def test_a_package_installed_from_a_folder_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: FakeDistribution('{"url": "file:///home/me/features"}'))
    with pytest.raises(InputError, match="features from a folder"):
        lock.check_installable({"features": "0.1"})


def test_a_package_installed_from_a_folder_serves_in_the_current_environment(monkeypatch):
    monkeypatch.setattr(metadata, "distribution", lambda name: FakeDistribution('{"url": "file:///home/me/features"}'))
    lock.check_installable({"features": "0.1"}, "current")


def test_a_lock_says_what_no_index_gave_and_nothing_installs_from_it(tmp_path):
    path = tmp_path / "requirements.lock"
    path.write_text(lock.render_lock({"features": "0.1", "six": "1.17.0"}, ["features"]))
    assert lock.read_lock(path) == {"features": "0.1", "six": "1.17.0"}
    assert lock.read_elsewhere(path) == ["features"]
    with pytest.raises(InputError, match="got features from a folder"):
        environment.ensure_environment(path)


@pytest.mark.parametrize("environment", ["isolated", "current"])
def test_a_requirement_of_notebooks_is_refused(environment):
    with pytest.raises(InputError, match="nothing of notebooks, got ipykernel"):
        lock.check_installable({"ipykernel": "7.0"}, environment)


def test_extras_of_a_requirement_are_followed(monkeypatch):
    needs = {"top": ["middle[fast]>=1"], "middle": ["base", "quick; extra == 'fast'", "slow; extra == 'slow'"],
             "base": ["gone; python_version < '3'"], "quick": ["top"]}
    monkeypatch.setattr(metadata, "requires", lambda name: needs.get(name))
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    assert lock.closure(["top"]) == {"base": "1.0", "middle": "1.0", "quick": "1.0", "top": "1.0"}


def test_a_requirement_that_is_not_installed_is_left_out():
    assert lock.closure(["no-such-distribution-of-ours"]) == {}
