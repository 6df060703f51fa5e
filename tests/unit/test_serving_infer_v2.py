"""Tensors of strangers: whatever a shape, a length or a byte claims, the answer is a 400 with a sentence; what fits is kept."""

import json
import random
import struct
from datetime import datetime

import numpy as np
import orjson
import pytest

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.infer_v2 import (
    HEADER,
    Infer,
    answer_outputs,
    check_outputs,
    describe_model,
    v2_answer,
    v2_request,
    write_infer,
)
from mlworkbench.serving.requests_v2 import input_tensors, read_infer
from mlworkbench.serving.signature import Column, Signature
from mlworkbench.serving.tensors_v2 import DATATYPES, decode, encode

SIGNATURE = Signature(
    [
        Column("age", "number", "float64", nullable=True),
        Column("children", "integer", "Int64", nullable=True),
        Column("member", "boolean", "boolean", nullable=True),
        Column("town", "string", "str", nullable=True),
        Column("since", "datetime", "datetime64[ns]", nullable=True),
        Column("big", "integer", "uint64", nullable=False),
        Column("image", "list", "float64", items="number", shape=(2, 2)),
        Column("words", "list", "object", nullable=True, items="string", shape=(None,)),
    ],
    "multiclass",
    ["blue", "größe", "red"],
)
ROWS = [
    {
        "age": 0.1 + 0.2,
        "children": 2,
        "member": True,
        "town": "Köln",
        "since": "2024-01-31T08:00:00",
        "big": 2**64 - 1,
        "image": [[1.0, 2.0], [3.0, 4.5]],
        "words": ["a", "b"],
    },
    {
        "age": None,
        "children": None,
        "member": None,
        "town": None,
        "since": None,
        "big": 0,
        "image": [[0.0, 0.0], [0.0, 0.0]],
        "words": [],
    },
    {
        "age": -1e-300,
        "children": -(2**63),
        "member": False,
        "town": "",
        "since": "1999-12-31T23:59:59.5",
        "big": 7,
        "image": [[1e308, -0.0], [5e-324, 1.0]],
        "words": None,
    },
]
ANSWER = {
    "predictions": ["red", "blue", "größe"],
    "probabilities": [[0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]],
    "prediction_ids": ["a-0", "a-1", "a-2"],
    "classes": ["blue", "größe", "red"],
    "model": "colours:0123456789abcdef",
}


def sent(rows, binary, signature=SIGNATURE) -> tuple[bytes, str | None]:
    body, headers = v2_request(signature, rows, binary)
    return body, headers.get(HEADER)


@pytest.mark.parametrize("binary", [False, True])
def test_rows_of_every_type_arrive_as_they_were_sent(binary):
    asked = read_infer(*sent(ROWS, binary), SIGNATURE, 10)
    assert asked.rows == ROWS and asked.outputs is None and asked.as_bytes("predictions") is binary
    assert SIGNATURE.check(asked.rows).errors == []
    checked = SIGNATURE.check(asked.rows)
    assert checked.columns["since"][0] == datetime(2024, 1, 31, 8) and checked.columns["big"][0] == 2**64 - 1


@pytest.mark.parametrize("binary", [False, True])
def test_answers_come_back_bit_for_bit(binary):
    outputs = answer_outputs(SIGNATURE, ANSWER)
    body, headers = write_infer(Infer(ROWS, binary={"": binary}, id="7"), ANSWER, outputs)
    assert v2_answer(body, headers) == ANSWER
    head = orjson.loads(body[: int(headers[HEADER])] if binary else body)
    assert head["id"] == "7" and head["model_name"] == "colours" and head["model_version"] == "0123456789abcdef"
    assert [(t["datatype"], t["shape"]) for t in head["outputs"]] == [("BYTES", [3]), ("FP64", [3, 3]), ("BYTES", [3])]


@pytest.mark.parametrize(
    ("signature", "answer", "datatype", "shape"),
    [
        (Signature([Column("a", "number", "float64")]), {"predictions": [1.5, None]}, "FP64", [-1]),
        (Signature([Column("a", "number", "float64")], "binary", [0, 1]), {"predictions": [1, 0]}, "INT64", [-1]),
        (Signature([Column("a", "number", "float64")], "binary", [False, True]), {"predictions": [True, False]}, "BOOL", [-1]),
        (Signature([Column("a", "number", "float64")], "multiclass", [1, "b"]), {"predictions": [1, "b"]}, "BYTES", [-1]),
        (Signature([Column("a", "number", "float64")], "cluster"), {"predictions": [3, 0]}, "INT64", [-1]),
        (
            Signature([Column("a", "number", "float64")], "multitarget", outputs=["x", "y"]),
            {"predictions": [[1.5, 2.0], None]},
            "FP64",
            [-1, 2],
        ),
        (
            Signature([Column("a", "number", "float64")], "multioutput", [[0, 1], ["a", "b"]], outputs=["x", "y"]),
            {"predictions": [[0, "a"], [1, "b"]], "probabilities": [[[0.5, 0.5], [1.0, 0.0]]] * 2},
            "BYTES",
            [-1],
        ),
        (
            Signature([Column("a", "number", "float64")], "transform", answer="object"),
            {"predictions": [{"7": 0.5}, {}]},
            "BYTES",
            [-1],
        ),
        (
            Signature([Column("a", "number", "float64")], "transform", answer="nested"),
            {"predictions": [[[1.0], [2.0, 3.0]], []]},
            "BYTES",
            [-1],
        ),
        (
            Signature([Column("a", "number", "float64")], "outlier"),
            {"predictions": [1, -1], "decision": [0.25, -0.5]},
            "INT64",
            [-1],
        ),
        (Signature([Column("a", "number", "float64")]), {"predictions": [2**63, 1]}, "BYTES", [-1]),
    ],
)
@pytest.mark.parametrize("binary", [False, True])
def test_every_kind_of_answer_survives(signature, answer, datatype, shape, binary):
    answer = answer | {"prediction_ids": ["a", "b"], "model": "m:1"}
    if answer["predictions"][1] is None and isinstance(answer["predictions"][0], list):
        answer["errors"] = [{"row": 1, "column": "a", "problem": "must be a number", "got": "x"}]
        answer["prediction_ids"] = ["a", None]
    outputs = answer_outputs(signature, answer)
    told = describe_model(signature, outputs, "m", "1")["outputs"][0]
    assert (told["datatype"], told["shape"]) == (datatype, shape)
    assert v2_answer(*write_infer(Infer([{}, {}], binary={"": binary}), answer, outputs)) == answer


def test_metadata_names_the_real_columns():
    told = {t["name"]: (t["datatype"], t["shape"]) for t in input_tensors(SIGNATURE)}
    assert told == {
        "age": ("FP64", [-1]),
        "children": ("INT64", [-1]),
        "member": ("BOOL", [-1]),
        "town": ("BYTES", [-1]),
        "since": ("BYTES", [-1]),
        "big": ("UINT64", [-1]),
        "image": ("FP64", [-1, 2, 2]),
        "words": ("BYTES", [-1, -1]),
    }


def test_outputs_are_given_as_asked_and_in_that_order():
    body = {
        "inputs": [tensor("age", "FP64", [1], [1])],
        "outputs": [
            {"name": "probabilities", "parameters": {"binary_data": True}},
            {"name": "predictions"},
        ],
    }
    asked = read_infer(orjson.dumps(body), None, SIGNATURE, 10)
    outputs = answer_outputs(SIGNATURE, ANSWER)
    check_outputs(asked, outputs)
    reply, headers = write_infer(asked, ANSWER, outputs)
    told = orjson.loads(reply[: int(headers[HEADER])])["outputs"]
    assert [t["name"] for t in told] == ["probabilities", "predictions"]
    assert told[0]["parameters"]["binary_data_size"] == 72 and told[1]["data"] == ANSWER["predictions"]
    with pytest.raises(ServiceError, match="Did you mean 'predictions'"):
        check_outputs(Infer([], outputs=("prediction",)), outputs)


def tensor(name: str, datatype: str, shape: list, data: object = None, **parameters: object) -> dict:
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        **({} if data is None else {"data": data}),
        **({"parameters": parameters} if parameters else {}),
    }


def ask(*tensors: dict, tail: bytes = b"", length: object = "", **rest: object) -> Infer:
    head = json.dumps({"inputs": list(tensors), **rest}).encode()
    return read_infer(head + tail, (str(len(head)) if tail else None) if length == "" else length, SIGNATURE, 100)


AGE = tensor("age", "FP64", [1], [1.5])


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ([], "a list of tensors"),
        ([{}], "a name of its own"),
        ([AGE, AGE], "a name of its own"),
        ([[1]], "a list of tensors"),
        ([AGE | {"name": 7}], "a name of its own"),
        ([AGE | {"name": None}], "a name of its own"),
        ([AGE | {"name": "agee"}], "Did you mean 'age'"),
        ([AGE | {"datatype": "DOUBLE"}], "one of the protocol's"),
        ([AGE | {"datatype": None}], "one of the protocol's"),
        ([AGE | {"datatype": ["FP64"]}], "one of the protocol's"),
        ([AGE | {"shape": [2]}], "as many items"),
        ([AGE | {"shape": [-1]}], "a list of"),
        ([AGE | {"shape": [1.0]}], "a list of"),
        ([AGE | {"shape": [True]}], "a list of"),
        ([AGE | {"shape": []}], "a list of"),
        ([AGE | {"shape": "1"}], "a list of"),
        ([AGE | {"shape": [0], "data": []}], "at least one row"),
        ([AGE | {"shape": [1, 1, 1]}], "shape must be"),
        ([AGE | {"shape": [1] * 9}], "a list of"),
        ([AGE | {"shape": [1, 10**30]}], "a list of"),
        ([AGE | {"shape": [1, 2**63 - 1]}], "as many items"),
        ([AGE | {"shape": [1, 0], "data": []}], "shape must be"),
        ([AGE | {"data": None}], "must be a list"),
        ([AGE | {"data": {"0": 1}}], "must be a list"),
        ([AGE | {"data": [[1], [2]]}], "as many items"),
        ([AGE | {"shape": [2, 1], "data": [[1], 2]}], "must be a list"),
        ([AGE | {"shape": [2, 1], "data": [[1], [2, 3]]}], "as many"),
        ([AGE, tensor("big", "UINT64", [2], [1, 2])], "must have 1 rows"),
        ([AGE | {"parameters": [1]}], "must be an object"),
        ([tensor("image", "FP64", [1, 4], [1, 2, 3, 4])], "shape must be [rows, 2, 2]"),
        ([tensor("words", "BYTES", [1, 1, 1], ["a"])], "shape must be [rows, any]"),
        ([tensor("words", "BYTES", [1], ["[1"])], "must be JSON in a text"),
        ([tensor("words", "BYTES", [1], [7])], "must be JSON"),
        ([tensor("age", "BYTES", [1], ["NaN"], content_type="application/json")], "must be JSON in a text"),
        ([tensor("age", "FP64", [1], [1], missing="1")], "missing must name"),
        ([tensor("age", "FP64", [1], [1], missing=-1)], "missing"),
        ([tensor("age", "FP64", [1], [1], missing="9" * 30)], "missing must"),
        ([tensor("age", "FP64", [1], [1], missing={})], "missing"),
        ([tensor("age", "FP64", [1], binary_data_size=-8)], "a number of bytes"),
        ([tensor("age", "FP64", [1], binary_data_size=8)], "0 left"),
        ([tensor("age", "FP64", [1], binary_data_size=True)], "a number of"),
        ([tensor("age", "FP64", [1], binary_data_size="8")], "a number of"),
        ([tensor("age", "FP64", [1], binary_data_size=10**30)], "a number of bytes"),
        ([tensor("age", "FP64", [1], shared_memory_region="a")], "know"),
    ],
)
def test_a_tensor_that_cannot_be_is_refused_with_a_sentence(tensors, text):
    with pytest.raises(ServiceError) as caught:
        ask(*tensors)
    assert caught.value.status == 400 and text in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        ({"outputs": "predictions"}, "a list of objects"),
        ({"outputs": [{"nam": "a"}]}, "each with a name"),
        ({"outputs": [{"name": "a"}] * 2}, "once each"),
        ({"outputs": [{"name": "a", "parameters": 1}]}, "must be an object"),
        ({"outputs": [{"name": "a", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({"outputs": [{"name": "a", "parameters": {"classification": 3}}]}, "does not know classification"),
        ({"parameters": [1]}, "must be an object"),
        ({"parameters": {"binary_data_output": "yes"}}, "true or false"),
        ({"parameters": {"missing:age": "4"}}, "missing must name"),
        ({"id": 7}, "id must be a string"),
        ({"ids": "7"}, "Did you mean 'id'"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_a_sentence(rest, text):
    with pytest.raises(ServiceError) as caught:
        ask(AGE, **rest)
    assert caught.value.status == 400 and text in str(caught.value)


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999", b"\xff", " ", "9" * 40, "²"])
def test_a_header_length_that_lies_is_refused(length):
    with pytest.raises(ServiceError, match="must be a number of bytes"):
        ask(AGE, length=length or " ")


@pytest.mark.parametrize("length", ["0", "5"])
def test_a_header_length_that_cuts_the_json_is_refused(length):
    with pytest.raises(ServiceError, match="must be JSON"):
        ask(AGE, length=length)


@pytest.mark.parametrize(
    ("datatype", "tail", "text"),
    [
        ("FP64", b"1234567", "1 items of 8 bytes"),
        ("FP64", b"123456789", "1 items of 8 bytes"),
        ("INT8", b"ab", "1 items of 1"),
        ("BYTES", b"", "after four bytes"),
        ("BYTES", b"\x05\0\0\0abcd", "must end within"),
        ("BYTES", b"\xff\xff\xff\xff", "must end within"),
        ("BYTES", b"\x01\0\0\0\xff", "text in UTF-8"),
        ("BYTES", b"\x03\0\0\0\xed\xa0\x80", "text in UTF-8"),
        ("BYTES", b"\0\0\0\0\0", "must end after 1 texts"),
        ("BOOL", b"\x02", "the byte 0 or 1"),
    ],
)
def test_bytes_that_are_not_what_the_tensor_says_are_refused(datatype, tail, text):
    with pytest.raises(ServiceError) as caught:
        ask(tensor("town", datatype, [1], binary_data_size=len(tail)), tail=tail)
    assert caught.value.status == 400 and text in str(caught.value)


def test_bytes_that_no_tensor_claims_are_refused():
    with pytest.raises(ServiceError, match="must use all 3 bytes"):
        ask(AGE, tail=b"abc")
    with pytest.raises(ServiceError, match="not both"):
        ask(AGE | {"parameters": {"binary_data_size": 8}}, tail=b"12345678")


def test_huge_claims_cost_nothing():
    for shape in ([10**18], [10**18, 0], [101]):
        with pytest.raises(ServiceError) as caught:
            ask(tensor("age", "FP64", shape, []))
        assert caught.value.status == 413
    with pytest.raises(ServiceError, match="four bytes"):
        ask(tensor("town", "BYTES", [1, 10**15], binary_data_size=4), tail=b"\0\0\0\0")
    many = [AGE | {"name": f"x{i}"} for i in range(200)]
    with pytest.raises(ServiceError, match="at most one tensor"):
        ask(*many)


def test_missing_values_are_told_in_parameters_of_the_tensor_or_of_the_request():
    town = tensor("town", "BYTES", [3], ["a", "", "b"])
    assert [r["town"] for r in ask(town | {"parameters": {"missing": "1,2"}}).rows] == ["a", None, None]
    assert [r["town"] for r in ask(town, parameters={"missing:town": "0"}).rows] == [None, "", "b"]
    assert [r["town"] for r in ask(town | {"data": ["a", None, "b"]}).rows] == ["a", None, "b"]
    assert ask(tensor("age", "FP64", [2], binary_data_size=16), tail=struct.pack("<dd", np.nan, 2)).rows == [
        {"age": None},
        {"age": 2.0},
    ]


def test_infinity_and_strange_types_are_left_to_the_columns():
    rows = ask(tensor("age", "FP64", [1], binary_data_size=8), tail=struct.pack("<d", np.inf)).rows
    assert SIGNATURE.check(rows).errors[0]["problem"] == "must be finite"
    rows = ask(tensor("age", "BYTES", [1], ["old"])).rows
    assert SIGNATURE.check(rows).errors[0]["problem"] == "must be a number"
    with pytest.raises(ServiceError, match="send null for a missing value"):
        read_infer(b'{"inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "data": [NaN]}]}', None, SIGNATURE, 9)


def test_a_matrix_is_taken_where_columns_have_only_numbers():
    signature = Signature([Column(f"x{i}", "number", "float64") for i in range(3)], input="array")
    body = orjson.dumps({"inputs": [tensor("input-0", "FP32", [2, 3], [[1, 2, 3], [4, 5, 6]])]})
    assert read_infer(body, None, signature, 9).rows == [{"x0": 1, "x1": 2, "x2": 3}, {"x0": 4, "x1": 5, "x2": 6}]
    named = Signature(signature.columns)
    with pytest.raises(ServiceError, match="unknown column"):
        read_infer(body, None, named, 9)


def test_random_bytes_are_never_a_fault_of_ours():
    chance = random.Random(0)
    body, length = sent(ROWS, True)
    for _ in range(2000):
        spoilt = bytearray(body)
        for _ in range(chance.randint(1, 8)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        cut = bytes(spoilt[: chance.randint(0, len(spoilt))]) if chance.random() < 0.3 else bytes(spoilt)
        try:
            asked = read_infer(cut, chance.choice([length, None, str(chance.randint(0, len(body)))]), SIGNATURE, 10)
        except ServiceError as error:
            assert error.status in (400, 413) and error.errors
        else:
            SIGNATURE.check(asked.rows)


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BYTES", "BOOL", "BF16"}))
def test_every_datatype_of_numbers_is_numpy_s_own(datatype):
    items = np.array([0, 1, 2, 100], dtype=DATATYPES[datatype])
    assert (
        decode(datatype, items.tobytes(), 4, "x") == items.tolist() and encode(datatype, items.tolist(), "x") == items.tobytes()
    )


def test_the_client_s_side_refuses_what_has_no_tensor():
    with pytest.raises(ServiceError, match="Did you mean 'age'"):
        v2_request(SIGNATURE, [{"agee": 1}])
    with pytest.raises(ServiceError, match="cannot be written as FP64"):
        v2_request(SIGNATURE, [{"age": "old"}], binary=True)
    with pytest.raises(ServiceError, match="no model"):
        v2_answer(b'{"error": "no model"}', {})
