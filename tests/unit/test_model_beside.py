"""Other models of `against`, and answers in another coding: what a person is told and what is taken from the source."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mlworkbench.core.errors import InputError
from mlworkbench.evaluation.answers import encode_labels
from mlworkbench.model.loading import save_model
from mlworkbench.model.sources import ModelSource, other_models


def test_a_function_beside_a_model_takes_its_task_and_classes(tmp_path):
    (tmp_path / "beside_rules.py").write_text("def label(X):\n    return ['yes'] * len(X)\n")
    reference = f"{tmp_path / 'beside_rules.py'}:label"
    source = ModelSource("champion.onnx", task="binary", classes=("no", "yes"))
    (other,) = other_models([reference], source, where="evaluate").values()
    assert (other.kind, other.classes) == ("binary", ("no", "yes"))
    with pytest.raises(InputError, match="its task must be known"):
        other_models([reference], ModelSource("champion.skops"), where="evaluate")


def test_a_booster_that_only_numbers_its_classes_takes_the_names_and_one_that_knows_them_keeps_its_own(tmp_path):
    xgboost = pytest.importorskip("xgboost")
    X, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
    bare = xgboost.train({"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, y), 2)
    bare.save_model(tmp_path / "bare.ubj")
    save_model(LogisticRegression().fit(X, np.where(y, "yes", "no")), tmp_path / "named.skops")
    save_model(LogisticRegression().fit(X, y), tmp_path / "numbered.skops")
    source = ModelSource("champion.ubj", task="binary", classes=("yes", "no"))
    paths = [str(tmp_path / name) for name in ("bare.ubj", "named.skops", "numbered.skops")]
    found = other_models(paths, source, where="evaluate")
    assert {name: model.classes for name, model in found.items()} == {
        "bare": ("yes", "no"), "named": ("no", "yes"), "numbered": (0, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (["True", "False"], [0, 1], r"Convert them to int \(True to 1, False to 0\), or pass classes="),
        ([True, False], [0, 1], r"Convert them to int"),
        (["yes", "no"], [0, 1], "Pass classes=, their names in the order of the model's probabilities"),
        (["a", "b", "c"], [0, 1, 2], "Pass classes="),
        ([0, 1], ["no", "yes"], "convert them to the classes' names"),
        (["1", "0"], [0, 1], "convert them to int as the model has them"),
        (["a", "d"], ["a", "b"], "Leave these rows out"),
    ],
)
def test_labels_in_another_coding_are_told_what_to_do(labels, classes, said):
    with pytest.raises(InputError, match=said):
        encode_labels(labels, classes, "data")
