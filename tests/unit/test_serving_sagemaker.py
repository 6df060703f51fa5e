"""Bodies of SageMaker: four forms of JSON, lines and CSV give the same rows; what is none of them is a 400 with a sentence."""

import csv
import io
import json
import random

import pandas as pd
import pytest

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.sagemaker import KINDS, accepted, read_invocation, write_invocation
from mlworkbench.serving.signature import Column, Signature

SIGNATURE = Signature(
    [
        Column("age", "number", "float64", nullable=True),
        Column("children", "integer", "int64"),
        Column("member", "boolean", "boolean", nullable=True),
        Column("town", "string", "str", nullable=True),
        Column("since", "datetime", "datetime64[ns]", nullable=True),
        Column("signal", "list", "float64", nullable=True, items="number", shape=(2,)),
    ],
    "binary",
    ["no", "yes"],
)
ROWS = [
    {"age": 0.1 + 0.2, "children": 2, "member": True, "town": 'Köln, "alt"', "since": "2024-01-31", "signal": [0.5, 1.0]},
    {"age": None, "children": -3, "member": None, "town": None, "since": None, "signal": None},
    {
        "age": 1e-300,
        "children": 2**60,
        "member": False,
        "town": "two\nlines",
        "since": "1999-12-31T23:59:59",
        "signal": [1.0, 2.0],
    },
]
ANSWER = {
    "predictions": ["no", "yes", "no"],
    "probabilities": [[0.1 + 0.2, 1 - (0.1 + 0.2)], [1 / 3, 2 / 3], [1.0, 0.0]],
    "prediction_ids": ["a-0", "a-1", "a-2"],
    "classes": ["no", "yes"],
    "model": "people:3",
}


def as_csv(header: bool, names: list[str] | None = None) -> bytes:
    names = names or SIGNATURE.names
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if header:
        writer.writerow(names)
    for row in ROWS:
        cells = {
            n: json.dumps(v) if isinstance(v, list) else str(v).lower() if isinstance(v, bool) else v for n, v in row.items()
        }
        writer.writerow([cells[n] for n in names])
    return text.getvalue().encode()


SPLIT = {"columns": SIGNATURE.names[::-1], "data": [[row[n] for n in SIGNATURE.names[::-1]] for row in ROWS], "index": [0, 1, 2]}
BODIES = {
    "rows": (json.dumps({"rows": ROWS}).encode(), b"application/json"),
    "list": (json.dumps(ROWS).encode(), None),
    "instances": (json.dumps({"instances": ROWS}).encode(), b"application/json; charset=utf-8"),
    "instances as lists": (json.dumps({"instances": [list(row.values()) for row in ROWS]}).encode(), b"application/json"),
    "split": (json.dumps(SPLIT).encode(), b"application/json"),
    "lines": (b"\n".join(json.dumps(row).encode() for row in ROWS) + b"\n\n", b"application/jsonlines"),
    "lines as lists": (b"\r\n".join(json.dumps(list(row.values())).encode() for row in ROWS), b"application/x-ndjson"),
    "csv": (as_csv(False), b"text/csv"),
    "csv with header": (as_csv(True), b"text/csv; charset=utf-8"),
    "csv in another order": (as_csv(True, SIGNATURE.names[::-1]), b"text/csv; header=present"),
    "csv with a byte order mark": (b"\xef\xbb\xbf" + as_csv(True), b"TEXT/CSV"),
}


@pytest.mark.parametrize("form", BODIES)
def test_every_form_gives_the_same_rows(form):
    body, kind = BODIES[form]
    asked = read_invocation(body, kind, SIGNATURE, 100)
    assert [dict(sorted(row.items())) for row in asked.rows] == [dict(sorted(row.items())) for row in ROWS]
    assert asked.headed is ("header" in form or "order" in form) and SIGNATURE.check(asked.rows).errors == []


def test_what_pandas_writes_is_read():
    frame = pd.DataFrame(ROWS)[["age", "children", "member", "town"]]
    signature = Signature(SIGNATURE.columns[:4], "binary", ["no", "yes"])
    plain = [{n: row[n] for n in frame.columns} for row in ROWS]
    assert read_invocation(frame.to_csv(index=False).encode(), b"text/csv", signature, 9).rows == plain
    exact = frame.to_json(orient="split", double_precision=15).encode()
    assert read_invocation(exact, None, signature, 9).rows[0]["town"] == ROWS[0]["town"]


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b"", b"text/csv", "at least one row"),
        (b"\n\n", b"text/csv", "at least one row"),
        (as_csv(True).split(b"\r\n")[0], b"text/csv", "at least one"),
        (b"1,2", b"text/csv", "must hold 6 cells"),
        (b"1,2,true,a,2024-01-31,,extra", b"text/csv", "must hold 6 cells"),
        (b"age,children,member,city,since,signal\n", b"text/csv", "unknown column"),
        (b"age,age,children\n1,2,3", b"text/csv", "name a column once"),
        (b'1,"2', b"text/csv", "well formed"),
        (b'1,"2"x,3', b"text/csv", "well formed"),
        (b"1," + b"x" * 200_000, b"text/csv", "well formed"),
        (b"\xff\xfe1\x00", b"text/csv", "UTF-8"),
        (b"1", b"text/csv; charset=utf-16", "UTF-8"),
        (b"{", b"application/json", "must be JSON"),
        (b"7", b"application/json", "a list of rows"),
        (b"null", None, "a list of rows"),
        (b"{}", None, "with 'rows'"),
        (b"[]", None, "at least one"),
        (b'{"rows": {}}', None, "must be a list"),
        (b'{"instances": [[1]]}', None, "must hold 6 values"),
        (b'{"data": [[1]]}', None, "columns must be a list of names"),
        (b'{"columns": ["age", "age"], "data": [[1, 2]]}', None, "each once"),
        (b'{"columns": [7], "data": [[1]]}', None, "a list of names"),
        (b'{"columns": ["age"], "data": [[1, 2]]}', None, "must hold 1 values"),
        (b'{"columns": ["age"], "data": [{"age": 1}]}', None, "must be a list"),
        (b'{"rows": [{}], "instances": [{}]}', None, "unknown key"),
        (b'{"age": NaN}', b"application/jsonlines", "the line must be JSON"),
        (b"\n", b"application/jsonlines", "at least one"),
        (b"[1,2]", b"application/jsonlines", "must hold 6 values"),
    ],
)
def test_a_body_that_cannot_be_is_refused_with_a_sentence(body, kind, text):
    with pytest.raises(ServiceError) as caught:
        read_invocation(body, kind, SIGNATURE, 10)
    assert caught.value.status in (400, 415) and text in str(caught.value)


@pytest.mark.parametrize("kind", [b"text/csv", b"application/jsonlines", b"application/json"])
def test_too_many_rows_are_a_413(kind):
    body = {
        b"text/csv": b"1,2,true,a,,\n" * 11,
        b"application/jsonlines": b"{}\n" * 11,
        b"application/json": b"[" + b"{}," * 10 + b"{}]",
    }
    with pytest.raises(ServiceError) as caught:
        read_invocation(body[kind], kind, SIGNATURE, 10)
    assert caught.value.status == 413


def test_a_line_that_is_no_json_is_named():
    with pytest.raises(ServiceError) as caught:
        read_invocation(b'{"age": 1}\n{"age": \xff}\n', b"application/jsonlines", SIGNATURE, 10)
    assert caught.value.errors[0]["row"] == 1


def test_cells_that_are_not_their_column_s_type_are_faults_of_the_row():
    rows = read_invocation(b"old,2.5,perhaps,a,yesterday,[1", b"text/csv", SIGNATURE, 10).rows
    told = {e["column"]: (e["problem"], e["got"]) for e in SIGNATURE.check(rows).errors}
    assert told["age"] == ("must be a number", "old") and told["children"] == ("must be an integer", "2.5")
    assert set(told) == {"age", "children", "member", "since", "signal"}
    for text in (b"nan", b"inf", b"1_000", b"0x10", "١".encode()):
        assert SIGNATURE.check(read_invocation(text + b",1,,,,", b"text/csv", SIGNATURE, 1).rows).errors[0]["column"] == "age"


@pytest.mark.parametrize(
    ("accept", "kind", "header"),
    [
        (None, b"application/json", False),
        (b"*/*", b"application/json", False),
        (b"text/csv", b"text/csv", False),
        (b"text/csv; header=present", b"text/csv", True),
        (b"text/*", b"text/csv", False),
        (b"application/x-npy, application/jsonlines;q=0.2", b"application/jsonlines", False),
        (b"image/png", b"application/json", False),
        (b"text/csv;q=0, application/json;q=0.1", b"application/json", False),
        (b";;,=,\xff", b"application/json", False),
        (b"text/csv;q=1e400", b"application/json", False),
    ],
)
def test_the_answer_is_in_the_form_that_is_accepted(accept, kind, header):
    assert accepted(accept) == (kind, header)
    assert kind in KINDS


def test_answers_keep_every_digit():
    body, kind = write_invocation(ANSWER, b"text/csv", SIGNATURE, headed=True)
    assert kind == b"text/csv; charset=utf-8"
    found = list(csv.DictReader(io.StringIO(body.decode())))
    assert [float(row["probability_no"]) for row in found] == [p[0] for p in ANSWER["probabilities"]]
    assert [row["prediction"] for row in found] == ANSWER["predictions"] and list(found[0])[-1] == "prediction_id"
    body, _ = write_invocation(ANSWER, b"application/jsonlines", SIGNATURE, headed=False)
    assert [json.loads(line)["probabilities"] for line in body.splitlines()] == ANSWER["probabilities"]
    assert json.loads(write_invocation(ANSWER, None, SIGNATURE, headed=False)[0]) == ANSWER


def test_a_batch_job_gets_as_many_lines_as_it_sent():
    assert len(write_invocation(ANSWER, b"text/csv", SIGNATURE, headed=False)[0].splitlines()) == 3
    assert len(write_invocation(ANSWER, b"text/csv", SIGNATURE, headed=True)[0].splitlines()) == 4


def test_answers_of_every_form_have_a_cell():
    several = Signature(SIGNATURE.columns, "multitarget", outputs=["mean", "spread"])
    told = {"predictions": [[1.5, 0.1], None], "prediction_ids": ["a", None]}
    assert write_invocation(told, b"text/csv", several, True)[0] == b"mean,spread,prediction_id\n1.5,0.1,a\n,,\n"
    nested = Signature(SIGNATURE.columns, "transform", answer="object")
    told = {"predictions": [{"7": 0.5}], "prediction_ids": ["a"]}
    assert write_invocation(told, b"text/csv", nested, False)[0] == b'"{""7"":0.5}",a\n'
    outlier = Signature(SIGNATURE.columns, "outlier")
    told = {"predictions": [-1], "decision": [-0.25], "prediction_ids": ["a"]}
    assert write_invocation(told, b"text/csv", outlier, True)[0] == b"prediction,decision,prediction_id\n-1,-0.25,a\n"


def test_random_bytes_are_never_a_fault_of_ours():
    chance = random.Random(0)
    for body, kind in BODIES.values():
        for _ in range(200):
            spoilt = bytearray(body)
            for _ in range(chance.randint(1, 8)):
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
            try:
                rows = read_invocation(bytes(spoilt), kind, SIGNATURE, 10).rows
            except ServiceError as error:
                assert error.status in (400, 413) and error.errors
            else:
                SIGNATURE.check(rows)
