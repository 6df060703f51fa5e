"""A batch is read as the service reads its rows: for every type of column, whatever stands in it, and in each format."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest

from mlworkbench.deployment.cells import json_value, kept, look_at, model_rows
from mlworkbench.serving.columns import POLICIES, Column
from mlworkbench.serving.inputs import build_input
from mlworkbench.serving.sagemaker import cell_reader
from mlworkbench.serving.signature import Signature

MOMENT = datetime(2024, 2, 29, 12, 30, 1, 123456)
COLUMNS = [
    Column("x", "number", "float64"), Column("x", "number", "float64", True, minimum=-1.5, maximum=50.0),
    Column("x", "number", "float32", True), Column("x", "number", "float16"), Column("x", "number", "Float64", True),
    Column("x", "number", "category", True, categories=[1.5, 3.0, 20.0]), Column("x", "number", "object", True, null="none"),
    Column("x", "number", "Sparse[float64, 0]", maximum=9.0),
    Column("x", "integer", "int64"), Column("x", "integer", "int64", True, minimum=0, maximum=99),
    Column("x", "integer", "int8"), Column("x", "integer", "uint64", True), Column("x", "integer", "uint8", True),
    Column("x", "integer", "Int64", True, minimum=-5), Column("x", "integer", "category", True, categories=[1, 3, 7]),
    Column("x", "integer", "float64", True),
    Column("x", "string", "str", True), Column("x", "string", "str", categories=["a", "ä", "3"]),
    Column("x", "string", "object", True, null="none"), Column("x", "string", "object", True),
    Column("x", "string", "string", True),
    Column("x", "string", "category", True, categories=["b", "a"], ordered=True),
    Column("x", "boolean", "bool"), Column("x", "boolean", "boolean", True), Column("x", "boolean", "object", True),
    Column("x", "boolean", "bool", True), Column("x", "boolean", "category", True, categories=[True]),
    Column("x", "datetime", "datetime64[ns]", True), Column("x", "datetime", "datetime64[us]"),
    Column("x", "datetime", "datetime64[s]", True),
    Column("x", "datetime", "datetime64[ns]", True, minimum="2020-01-01T00:00:00", maximum="2023-12-31T00:00:00"),
    Column("x", "datetime", "datetime64[ns, UTC]", True, minimum="2020-01-01T00:00:00+00:00"),
    Column("x", "datetime", "datetime64[us, Europe/Rome]", True),
    Column("x", "list", "float64", True, items="number", shape=(2,), minimum=0.0),
    Column("x", "list", "object", items="string", shape=(None,), categories=["a", "b"]),
]  # fmt: skip
CELLS = {
    "doubles": pa.array([1.5, -2.0, 3.0, None, float("nan"), float("inf"), 1e300, 7.0, -0.0, 2.0**60, 255.0, 256.0]),
    "good doubles": pa.array([1.5, 3.0, 20.0]),
    "singles": pa.array([1.5, 0.1, None, 3.0], pa.float32()),
    "integers": pa.array([1, 3, -7, None, 120, 130, 2**53 + 1, 2**63 - 1, 300]),
    "small integers": pa.array([1, 3, 7], pa.int8()),
    "unsigned": pa.array([1, 3, 2**64 - 1, None], pa.uint64()),
    "strings": pa.array(["a", "ä", None, "b", "3", " 3", "", "3.5", "true", "2024-02-29",
                         "2024-02-29T12:30:01Z", "1e999", "nan"]),
    "large strings": pa.array(["a", "b", None], pa.large_string()),
    "categories": pa.array(["a", "b", "a", None]).dictionary_encode(),
    "number categories": pa.array([1.5, 3.0, None, 4.0]).dictionary_encode(),
    "booleans": pa.array([True, False, None]),
    "moments": pa.array([MOMENT, None, datetime(1500, 1, 1), MOMENT - timedelta(days=900)], pa.timestamp("us")),
    "nanoseconds": pa.array([1_700_000_000_123_456_789, None, -1], pa.timestamp("ns")),
    "zoned": pa.array([MOMENT.replace(tzinfo=UTC), None, datetime(1999, 7, 1, tzinfo=UTC)], pa.timestamp("us", tz="Europe/Rome")),
    "seconds": pa.array([MOMENT.replace(microsecond=0), None], pa.timestamp("s")),
    "dates": pa.array([MOMENT.date(), None]),
    "lists": pa.array([[1.0, 2.0], [1.0], None, [-1.0, 3.0]]),
    "words": pa.array([["a"], [], ["a", "c"], None]),
    "nothing": pa.nulls(3),
    "no row": pa.array([], pa.float64()),
}  # fmt: skip


def named(column: Column) -> str:
    limits = "".join("?" if column.nullable else "" for _ in [0]) + ("<" if column.minimum is not None or column.maximum else "")
    return f"{column.type}-{column.dtype}{limits}{'{}' if column.categories else ''}"


def with_policy(column: Column, policy: str) -> Signature:
    return Signature([Column(**{**column.__dict__, "policy": policy})])


def agree(signature: Signature, table: pa.Table, rows: list[dict], text: bool) -> None:
    """Faults, flags and what the model is given are the service's."""
    looked, checked = look_at(list(signature._checks.values()), table, text), signature.check(rows)
    assert looked.faults == list(checked.errors)
    assert looked.flags == checked.flags
    good = [i for i in range(len(rows)) if i not in checked.bad]
    assert looked.bad == checked.bad
    clean = checked.keep(good)
    values = {name: kept(column, np.array(good, int)) for name, column in looked.columns.items()}
    if any(column.type == "list" for column in signature.columns):
        assert values == clean.columns
        return
    for form in ("frame", "array"):
        expected = build_input(form, signature.columns, clean.columns, clean.rows)
        found = model_rows(form, signature.columns, values, len(good))
        if form == "frame":
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
        elif expected.dtype != object:
            assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("column", COLUMNS, ids=named)
def test_every_column_reads_every_kind_of_cell_as_the_service_does(column, policy):
    for cells in CELLS.values():
        plain = pa.array(cells.to_pylist(), cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells
        rows = [{"x": json_value(value)} for value in plain.to_pylist()]
        agree(with_policy(column, policy), pa.table({"x": cells}), rows, text=False)


TEXTS = ["1", "3", " 3 ", "-7", "+5", "3.0", "3.5", "5.", ".5", "1e3", "1E-400", "1e999", "1e0001", "0x10", "1_000", "nan", "inf",
         "Infinity", None, "true", "FALSE", " true", "yes", "a", "ä", "b", "٣", "1,5", "300", "-1", "9223372036854775807",
         "9223372036854775808", "18446744073709551615", "12345678901234567890123", "2024-02-29", "2024-02-29T12:30:01.5",
         "2024-02-29T12:30:01+02:00", "1500-01-01", "[1, 2]", '["a", "b"]', "[1", "3.4e38",
         "3.5e38", "\u00a03", "00012", "-0"]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("column", COLUMNS, ids=named)
def test_a_cell_of_text_is_what_the_service_makes_of_one(column, policy):
    signature = with_policy(column, policy)
    rows = [{"x": None if text is None else cell_reader(column)(text)} for text in TEXTS]
    agree(signature, pa.table({"x": pa.array(TEXTS)}), rows, text=True)


@pytest.mark.parametrize("column", COLUMNS, ids=named)
def test_a_column_that_is_not_there_is_missing(column):
    signature, rows = Signature([column]), [{"x": None}] * 3
    agree(signature, pa.table({"y": [1, 2, 3]}), rows, text=False)


def test_faults_of_several_columns_stand_by_row_and_then_by_column():
    signature = Signature([Column("a", "integer", "int64", maximum=5, policy="reject"), Column("b", "string", "str")])
    table = pa.table({"a": [1, 9, None, 9], "b": ["x", None, None, "y"]})
    agree(signature, table, json.loads(table.to_pandas().convert_dtypes().to_json(orient="records")), text=False)


def test_ten_thousand_random_cells_are_read_alike():
    draw = np.random.default_rng(5)
    columns = [Column("n", "number", "float64", True, minimum=-1.0, maximum=1.0), Column("i", "integer", "int64", maximum=2),
               Column("s", "string", "str", True, categories=["0", "1"])]  # fmt: skip
    numbers = pa.array(draw.normal(size=10_000), mask=draw.random(10_000) < 0.1)
    table = pa.table({"n": numbers, "i": draw.integers(0, 4, 10_000), "s": draw.integers(0, 3, 10_000).astype(str)})
    rows = orjson.loads(orjson.dumps(table.to_pylist()))
    agree(Signature(columns), table, rows, text=False)
