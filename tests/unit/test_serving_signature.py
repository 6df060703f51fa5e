"""The signature's edges: what is read, what is refused, which frame comes out."""

import json
import random

import numpy as np
import pandas as pd
import pytest

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.signature import Column, Signature


def problems(column: Column, value: object) -> list[str]:
    """What a row with this one value is refused for."""
    checked = Signature([column]).check([{column.name: value}])
    return [error["problem"] for error in checked.errors]


GOOD = [
    ("number", "float64", 1.5), ("number", "float64", 2), ("number", "float64", -0.0), ("number", "float32", 3.0e38),
    ("integer", "int64", 7), ("integer", "int64", 7.0), ("integer", "int64", 2**63 - 1), ("integer", "uint64", 2**64 - 1),
    ("string", "str", ""), ("string", "object", "ü" * 1000), ("boolean", "bool", False), ("boolean", "boolean", True),
    ("datetime", "datetime64[us]", "2026-01-31"), ("datetime", "datetime64[ns]", "2026-01-31T08:00:00.123456"),
    ("datetime", "datetime64[us, UTC]", "2026-01-31T08:00:00Z"),
    ("datetime", "datetime64[us, Europe/Zurich]", "2026-01-31T08:00:00+05:30"),
]
BAD = [
    ("number", "float64", "1.5", "must be a number"), ("number", "float64", True, "must be a number"),
    ("number", "float64", [1], "must be a number"), ("number", "float64", float("nan"), "must be finite"),
    ("number", "float64", float("inf"), "must be finite"), ("number", "float64", 10**400, "range of a double"),
    ("number", "float32", 1e39, "single-precision"), ("integer", "int64", 7.5, "must be an integer"),
    ("integer", "int64", 2**63, "must be between"), ("integer", "int8", 128, "must be between -128 and 127"),
    ("integer", "uint8", -1, "must be between 0 and 255"), ("integer", "int64", 1e30, "must be an integer"),
    ("integer", "int64", False, "must be an integer"), ("string", "str", 4, "must be a string"),
    ("string", "category", {"a": 1}, "must be a string"), ("boolean", "bool", 1, "must be true or false"),
    ("boolean", "bool", "true", "must be true or false"), ("datetime", "datetime64[us]", "yesterday", "ISO 8601"),
    ("datetime", "datetime64[us]", 1_700_000_000, "ISO 8601"),
    ("datetime", "datetime64[us]", "2026-01-31T08:00:00Z", "must not carry a time zone"),
    ("datetime", "datetime64[us, UTC]", "2026-01-31T08:00:00", "must carry a time zone"),
    ("datetime", "datetime64[ns]", "9999-12-31", "between the years"),
]


@pytest.mark.parametrize(("kind", "dtype", "value"), GOOD)
def test_a_value_of_the_column_s_type_is_taken(kind, dtype, value):
    column = Column("c", kind, dtype)
    signature = Signature([column])
    checked = signature.check([{"c": value}])
    assert checked.errors == []
    assert str(signature.frame(checked)["c"].dtype) == dtype


@pytest.mark.parametrize(("kind", "dtype", "value", "text"), BAD)
def test_a_value_of_another_type_is_refused_with_the_reason(kind, dtype, value, text):
    (problem,) = problems(Column("c", kind, dtype), value)
    assert text in problem


ANY = [None, 1.5, 2, -0.0, 1e300, float("nan"), float("inf"), 2**53 + 1, -(2**63), 2**63, True, "red", "Red", "", [1], {},
       "2026-01-31"]
KINDS = [
    Column("c", "number", "float64"), Column("c", "number", "float64", nullable=True, minimum=0.0, maximum=2.0),
    Column("c", "number", "float32", minimum=0.0, maximum=2.0), Column("c", "number", "float32"),
    Column("c", "integer", "int64", minimum=0, maximum=2), Column("c", "integer", "uint64"), Column("c", "integer", "int8"),
    Column("c", "string", "object", nullable=True, categories=("red", "2026-01-31")), Column("c", "string", "str"),
    Column("c", "boolean", "bool"), Column("c", "datetime", "datetime64[us]"), Column("c", "number", "float64", policy="coerce"),
]


@pytest.mark.parametrize("column", KINDS, ids=lambda c: f"{c.dtype} {c.minimum} {c.policy}")
@pytest.mark.parametrize("extra", ["reject", "drop"])
def test_a_row_seen_at_a_glance_is_read_as_every_other(column, extra):
    signature, careful = Signature([column], extra=extra), Signature([column], extra=extra)
    object.__setattr__(careful, "_glance", None)
    for row in [{"c": value} for value in ANY] + [{}, {"c": 1.5, "d": 1}, None, "c", ["c"]]:
        for rows in ([row], [row, row], [{"c": 1.5}, row, {"c": 3}], [{"c": "a"}, {"c": None}, row], [{"c": 2}, row]):
            seen, read = signature.check(rows), careful.check(rows)
            assert (repr(seen.columns), repr(seen.errors), seen.flags) == (repr(read.columns), repr(read.errors), read.flags)


def test_many_rows_of_many_columns_are_read_as_each_by_itself():
    rng = random.Random(4)
    columns = [Column("n", "number", "float64", nullable=True, minimum=0, maximum=9), Column("i", "integer", "int64"),
               Column("s", "string", "str", categories=["a", "b"]), Column("b", "boolean", "bool")]
    signature = Signature(columns)
    for _ in range(2000):
        rows = [{"n": rng.choice([1.5, 3, None]), "i": rng.randint(0, 9), "s": rng.choice("ab"), "b": rng.random() < 0.5}
                for _ in range(rng.randint(2, 6))]
        rng.choice(rows)[rng.choice("nisb")] = rng.choice([2, 2.5, 12, -1, None, True, "a", "c", float("nan"), 2**60, [1]])
        checked, each = signature.check(rows), [signature.check([row]) for row in rows]
        assert repr(checked.columns) == repr({name: [c.columns[name][0] for c in each] for name in "nisb"})
        assert checked.flags == {i: c.flags[0] for i, c in enumerate(each) if c.flags}
        assert [e["problem"] for e in checked.errors] == [e["problem"] for c in each for e in c.errors]


def test_a_missing_value_is_a_fault_only_where_none_may_be_missing():
    assert problems(Column("c", "number", "float64", nullable=True), None) == []
    assert problems(Column("c", "number", "float64"), None) == ["must not be missing"]
    assert Signature([Column("c", "number", "float64")]).check([{}]).errors[0]["problem"] == "required column is absent"
    assert Signature([Column("c", "number", "float64", nullable=True)]).check([{}]).errors == []


def test_an_unknown_column_is_refused_with_the_closest_name_or_dropped():
    columns = [Column("age", "number", "float64"), Column("income", "number", "float64")]
    row = {"age": 1.0, "income": 2.0, "incme": 3.0}
    (error,) = Signature(columns).check([row]).errors
    assert error["column"] == "incme" and "Did you mean 'income'?" in error["problem"] and error["row"] == 0
    dropping = Signature(columns, extra="drop")
    checked = dropping.check([row])
    assert checked.errors == [] and list(dropping.frame(checked)) == ["age", "income"]


def test_errors_come_in_the_order_of_the_rows():
    signature = Signature([Column("a", "number", "float64"), Column("b", "number", "float64")])
    checked = signature.check([{"a": 1, "b": "x"}, [], {"a": "y", "b": 1}, {"a": 1, "b": 2}])
    assert [(e["row"], e["column"]) for e in checked.errors] == [(0, "b"), (1, None), (2, "a")]
    assert checked.bad == {0, 1, 2}


def test_a_value_outside_of_the_reference_data_is_flagged_and_refused_only_by_policy():
    age = {"name": "age", "type": "number", "dtype": "float64", "minimum": 0, "maximum": 99}
    sex = {"name": "sex", "type": "string", "dtype": "str", "categories": ["f", "m"], "nullable": True}
    rows = [{"age": 50, "sex": "f"}, {"age": 100, "sex": None}, {"age": -1, "sex": "x"}]
    checked = Signature([Column(**age), Column(**sex)]).check(rows)
    assert checked.errors == []
    assert checked.flags == {1: ["out_of_range:age"], 2: ["out_of_range:age", "unseen_category:sex"]}
    strict = Signature([Column(**age, policy="reject"), Column(**sex, policy="reject")]).check(rows)
    assert [(e["row"], e["column"]) for e in strict.errors] == [(1, "age"), (2, "age"), (2, "sex")]
    assert strict.flags == {}


def test_datetime_ranges_are_compared_as_moments():
    column = Column("t", "datetime", "datetime64[us]", minimum="2020-01-01", maximum="2021-01-01T00:00:00")
    flags = Signature([column]).check([{"t": "2020-06-01"}, {"t": "2022-01-01"}]).flags
    assert flags == {1: ["out_of_range:t"]}


def training_frame() -> pd.DataFrame:
    """Every dtype that a training frame may have, with missing values where it can hold them."""
    moments = pd.to_datetime(["2020-01-01", None, "2021-06-01T12:30:00"], format="ISO8601")
    return pd.DataFrame({
        "f64": [1.5, np.nan, -2.0], "f32": np.array([1.5, np.nan, 2.25], dtype="float32"), "i64": [1, 2, 3],
        "i8": np.array([1, -2, 3], dtype="int8"), "Int64": pd.array([1, None, 3], dtype="Int64"),
        "Float64": pd.array([1.5, None, 3], dtype="Float64"), "bool": [True, False, True],
        "boolean": pd.array([True, None, False], dtype="boolean"), "str": pd.array(["a", None, "b"], dtype="str"),
        "string": pd.array(["a", None, "b"], dtype="string"), "object": pd.Series(["a", np.nan, "b"], dtype=object),
        "none": pd.Series(["a", None, "b"], dtype=object),
        "category": pd.Categorical(["lo", None, "hi"], categories=["lo", "mid", "hi"], ordered=True),
        "numbers": pd.Categorical([3, None, 1], categories=[3, 2, 1]),
        "naive": moments, "zoned": moments.tz_localize("Europe/Zurich"),
    })


def signature_of(frame: pd.DataFrame) -> Signature:
    types = {"f": "number", "F": "number", "i": "integer", "I": "integer", "b": "boolean", "s": "string",
             "o": "string", "c": "string", "d": "datetime"}
    columns = []
    for name, values in frame.items():
        dtype = str(values.dtype)
        known = values.cat.categories.tolist() if dtype == "category" else None
        kind = "integer" if name == "numbers" else types[dtype[0]]
        null = "none" if name == "none" else "nan"
        columns.append(Column(name, kind, dtype, bool(values.isna().any()), categories=known,
                              ordered=name == "category", null=null))
    return Signature(columns)


def as_json(frame: pd.DataFrame) -> list[dict]:
    def value(v):
        return None if v is None or pd.isna(v) else v.isoformat() if isinstance(v, pd.Timestamp) else v

    rows = [{k: value(v) for k, v in row.items()} for row in frame.to_dict("records")]
    return json.loads(json.dumps(rows))


def test_the_training_frame_is_rebuilt_with_every_dtype():
    frame = training_frame()
    signature = signature_of(frame)
    checked = signature.check(as_json(frame))
    assert checked.errors == []
    pd.testing.assert_frame_equal(signature.frame(checked), frame)


def test_one_row_is_rebuilt_like_many():
    frame = training_frame()
    signature, rows = signature_of(frame), as_json(frame)
    for i in range(len(frame)):
        one = signature.frame(signature.check([rows[i]]))
        pd.testing.assert_frame_equal(one, frame.iloc[[i]].reset_index(drop=True))


def test_no_rows_give_an_empty_frame_with_the_dtypes():
    frame = training_frame()
    signature = signature_of(frame)
    assert (signature.frame(signature.check([])).dtypes == frame.dtypes).all()


def test_a_signature_survives_json():
    signature = signature_of(training_frame())
    assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


@pytest.mark.parametrize(("change", "text"), [
    ({"version": 2}, "version must be 1"), ({"extra": "keep"}, "extra must be one of"), ({"colour": "red"}, "colour"),
])
def test_a_signature_of_another_format_is_refused(change, text):
    data = {**Signature([Column("a", "number", "float64")]).to_dict(), **change}
    with pytest.raises(ServiceError, match=text):
        Signature.from_dict(data)


def test_two_columns_of_one_name_are_refused():
    with pytest.raises(ServiceError, match="must be unique"):
        Signature([Column("a", "number", "float64"), Column("a", "number", "float64")])


def test_keeping_rows_renumbers_their_flags():
    column = Column("a", "number", "float64", maximum=1)
    checked = Signature([column]).check([{"a": 0.0}, {"a": "x"}, {"a": 5.0}])
    kept = checked.keep([0, 2])
    assert kept.columns == {"a": [0.0, 5.0]} and kept.flags == {1: ["out_of_range:a"]} and kept.errors == []
