"""Signatures: from all rows, for every dtype, and back from JSON to the very same frame."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor

from mlworkbench.core.errors import InputError
from mlworkbench.model.signature import infer_column, infer_signature
from mlworkbench.serving.signature import Signature

N = 12
COLUMNS = {
    "whole": pd.Series(range(N)),
    "small": pd.Series(range(N), dtype="int16"),
    "nullable whole": pd.Series([1, None, 3] * 4, dtype="Int64"),
    "größe": pd.Series(np.linspace(0, 1, N) / 3),
    "gaps": pd.Series([0.1, np.nan, 1e-300] * 4),
    "single": pd.Series(np.linspace(0, 1, N), dtype="float32"),
    "text": pd.Series(["a", None, "c"] * 4),
    "old text": pd.Series(["a", None, "c"] * 4, dtype=object),
    "older text": pd.Series(["a", np.nan, "c"] * 4, dtype=object),
    "flag": pd.Series([True, False] * 6),
    "nullable flag": pd.Series([True, None, False] * 4, dtype="boolean"),
    "kind": pd.Categorical(["x", "y", None] * 4, categories=["y", "x", "never"]),
    "level": pd.Categorical([3, 1, 2] * 4, categories=[1, 2, 3], ordered=True),
    "day": pd.Series(pd.date_range("2024-02-27", periods=N)),
    "moment": pd.Series(pd.date_range("2024-02-27", periods=N, tz="UTC")),
}


def records(frame: pd.DataFrame) -> list[dict]:
    """The rows as a client sends them."""
    def value(v):
        if v is None or v is pd.NaT or v is pd.NA or (isinstance(v, float) and np.isnan(v)):
            return None
        return v.isoformat() if hasattr(v, "isoformat") else v.item() if hasattr(v, "item") else v

    return json.loads(json.dumps([{c: value(v) for c, v in row.items()} for row in frame.to_dict("records")]))


@pytest.mark.parametrize("name", COLUMNS)
def test_each_dtype_goes_through_json_and_comes_back_the_same(name):
    frame = pd.DataFrame({name: COLUMNS[name]})
    model = DummyClassifier().fit(frame, [0, 1] * (N // 2))
    signature = infer_signature(model, frame)
    signature = Signature.from_dict(json.loads(json.dumps(signature.to_dict())))
    checked = signature.check(records(frame))
    assert not checked.errors and not checked.flags
    pd.testing.assert_frame_equal(signature.frame(checked), frame)


def test_nullability_and_range_come_from_all_rows_not_the_first():
    values = pd.Series([5.0] * 9999 + [np.nan])
    values[9998] = 77.0
    column = infer_column(values, "x")
    assert column.nullable and (column.minimum, column.maximum) == (5.0, 77.0)


def test_free_text_has_no_categories_and_few_values_have():
    assert infer_column(pd.Series([f"note {i}" for i in range(1000)]), "x").categories is None
    assert infer_column(pd.Series(["b", "a"] * 500), "x").categories == ("a", "b")


@pytest.mark.parametrize("values", [
    pd.Series([1, "two"], dtype=object), pd.Series([[1], ["x"]]), pd.Series(pd.to_timedelta([1, 2], unit="s")),
    pd.Series([1j, 2j]), pd.Series([[1], [[2]]]), pd.Series([[1], 2]), pd.Series(pd.period_range("2024", periods=2)),
])
def test_a_column_that_json_cannot_carry_is_refused_by_name(values):
    with pytest.raises(InputError, match="column 'odd': "):
        infer_column(values.rename("odd"), "odd")


def test_an_array_without_names_gets_names_and_is_given_back_as_array():
    X = np.random.default_rng(0).normal(size=(20, 3))
    signature = infer_signature(DummyRegressor().fit(X, X[:, 0]), X)
    assert signature.input == "array" and signature.names == ["x0", "x1", "x2"] and signature.task == "regression"


def test_a_frame_whose_columns_are_numbers_is_given_back_as_array():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)))
    signature = infer_signature(DummyRegressor().fit(X, X[0]), X)
    assert signature.input == "array" and signature.names == ["0", "1"]


def test_several_outputs_have_names():
    X = pd.DataFrame({"a": [1.0, 2, 3, 4]})
    y = pd.DataFrame({"height": [1.0, 2, 3, 4], "width": [4.0, 3, 2, 1]})
    model = DummyRegressor().fit(X, y)
    assert infer_signature(model, X, y).outputs == ("height", "width")


def test_columns_named_nullable_are_nullable():
    X = pd.DataFrame({"a": [1.0, 2], "b": [1.0, 2]})
    signature = infer_signature(DummyRegressor().fit(X, [1, 2]), X, nullable=["b"])
    assert [c.nullable for c in signature.columns] == [False, True]


def test_rows_that_are_not_the_models_are_refused():
    X = pd.DataFrame({"a": [1.0, 2]})
    model = DummyRegressor().fit(X, [1, 2])
    for wrong, told in ((X[:0], "at least one row"), (X.rename(columns={"a": "b"}), "no 'a'"), (np.zeros(3), "two dimensions")):
        with pytest.raises(InputError, match=told):
            infer_signature(model, wrong)
