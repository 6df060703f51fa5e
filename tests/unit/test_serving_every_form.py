"""Every form of model through every protocol: one set of golden rows, one answer; and a document that tells no lies."""

import csv
import io
import json
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import orjson
import pytest
import zoo

from mlworkbench.bundling.content import make_parts
from mlworkbench.model.loading import load_model
from mlworkbench.serving.equality import compare, proves
from mlworkbench.serving.http import Request
from mlworkbench.serving.infer_v2 import HEADER, v2_answer, v2_request
from mlworkbench.serving.integrity import DEFAULTS
from mlworkbench.serving.openapi import Offered, build_openapi
from mlworkbench.serving.predictor import Predictor
from mlworkbench.serving.protocols import Explanations, Protocols

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS = DEFAULTS | {"explain_evaluations": 128}
OPEN = ("a sparse matrix", "a sparse array of counts", "records")  # a row holds only what it has: no table of all columns
SILENT = {  # what cannot be explained, and why
    "several outputs of text": "no number", "texts in a list": "one text", "texts in a series": "one text",
    "texts in an array": "one text", "clusters of a pipeline": "a cluster is a name",
    "a transformer that gives a frame": "no number",
}  # fmt: skip


class Served(NamedTuple):
    """A model as its service knows it, without a service."""

    predictor: Predictor
    protocols: Protocols
    golden: dict[str, Any]
    document: dict[str, Any]

    def ask(self, kind: str, body: bytes, **headers: str) -> Any:
        """What a route answers to a body."""
        sent = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
        read = self.protocols.readers[kind](body, Request({"method": "POST", "path": "/", "headers": sent}, None))
        question = self.predictor.read(read.rows, read.on_error)
        question.also = read.also
        (scored,) = self.predictor.answer([question])
        if isinstance(scored, Exception):
            raise scored
        ids = [f"a-{i}" for i in range(question.rows)]
        return read.encode(scored.body(self.predictor.tag, self.predictor.classes) | {"prediction_ids": ids})


@pytest.fixture(scope="module", params=sorted(zoo.more()))
def served(request) -> Served:
    estimator, X, y = zoo.more()[request.param]
    model = load_model(zoo.fit(estimator, X, y))
    parts = make_parts(model, name="zoo", examples=X, rows=16)
    golden = json.loads(json.dumps(dict(parts.golden)))
    predictor = Predictor(model.estimator, parts.signature, name="zoo", version="1", golden=golden)
    predictor._try_extras(golden["rows"][:2])
    protocols, explanations = Protocols(predictor, SETTINGS), Explanations(predictor, SETTINGS)
    offered = Offered(protocols.outputs, predictor.extras.names, explanations.explainer is not None, True)
    document = build_openapi(parts.signature, name="zoo", version="1", settings=SETTINGS, golden=golden, offered=offered)
    return Served(predictor, protocols, golden, json.loads(orjson.dumps(document)))


@pytest.fixture
def name(request) -> str:
    return request.node.callspec.params["served"]


@pytest.mark.parametrize("binary", [False, True])
def test_tensors_carry_every_row_and_every_answer(served, binary):
    signature, rows = served.predictor.signature, served.golden["rows"]
    body, headers = v2_request(signature, rows, binary)
    reply = served.ask("infer", body, **({HEADER.lower().replace("-", "_"): headers[HEADER]} if binary else {}))
    answer = v2_answer(reply.body, {k.decode(): v.decode() for k, v in reply.headers})
    said = json.loads(orjson.dumps(served.predictor.predict(rows)))
    assert {key: answer[key] for key in said} == said and proves(compare(served.golden, answer))


def test_metadata_is_what_the_tensors_are(served):
    signature, rows = served.predictor.signature, served.golden["rows"]
    metadata = json.loads(served.protocols.documents()["/v2/models/{model}"].body)
    reply = json.loads(served.ask("infer", v2_request(signature, rows)[0]).body)
    told = {tensor["name"]: tensor for tensor in metadata["outputs"]}
    for tensor in reply["outputs"]:
        known = told[tensor["name"]]
        assert tensor["datatype"] == known["datatype"] and len(tensor["shape"]) == len(known["shape"])
        assert all(a in (-1, b) for a, b in zip(known["shape"], tensor["shape"], strict=True))
    assert [tensor["name"] for tensor in metadata["inputs"]] == signature.names


def test_tables_carry_every_row(served, name):
    if name in OPEN:
        return
    names, rows = served.predictor.signature.names, served.golden["rows"]
    body = orjson.dumps({"instances": [[row.get(n) for n in names] for row in rows]})
    assert proves(compare(served.golden, json.loads(served.ask("invocations", body).body)))
    lines = b"\n".join(map(orjson.dumps, rows))
    answer = json.loads(served.ask("invocations", lines, content_type="application/jsonlines").body)
    assert proves(compare(served.golden, answer))


def test_csv_carries_every_row_that_has_no_empty_text(served, name):
    if name in OPEN:
        return
    names, rows = served.predictor.signature.names, served.golden["rows"]
    kept = [i for i, row in enumerate(rows) if "" not in row.values()]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for i in kept:
        cells = [rows[i].get(n) for n in names]
        writer.writerow([orjson.dumps(c).decode() if isinstance(c, (list, bool)) else c for c in cells])
    reply = served.ask("invocations", text.getvalue().encode(), content_type="text/csv", accept="application/json")
    part = {key: [v[i] for i in kept] if isinstance(v, list) and len(v) == len(rows) else v for key, v in served.golden.items()}
    assert len(kept) >= 4 and proves(compare(part, json.loads(reply.body)))


def test_the_document_holds_for_golden_rows_and_their_answers(served):
    schemas = {"$defs": served.document["components"]["schemas"]}
    text = json.dumps(schemas).replace("#/components/schemas/", "#/$defs/")

    def check(thing: Any, component: str) -> None:
        jsonschema.validate(thing, json.loads(text) | {"$ref": f"#/$defs/{component}"}, jsonschema.Draft202012Validator)

    rows = served.golden["rows"]
    check({"rows": rows}, "Rows")
    check(json.loads(served.ask("predict", orjson.dumps({"rows": rows})).body), "Answer")
    body = v2_request(served.predictor.signature, rows)[0]
    check(json.loads(body), "InferRequest")
    check(json.loads(served.ask("infer", body).body), "InferReply")
    check({"instances": rows}, "Invocation")


def test_every_example_is_answered(served):
    for path, kind in (("/predict", "predict"), ("/v2/models/zoo/infer", "infer"), ("/invocations", "invocations")):
        for content_type, media in served.document["paths"][path]["post"]["requestBody"]["content"].items():
            if "example" in media:
                body = media["example"] if isinstance(media["example"], str) else json.dumps(media["example"])
                assert served.ask(kind, body.encode(), content_type=content_type).status == 200, (path, content_type)


def test_what_can_be_explained_adds_up_and_what_cannot_says_why(served, name):
    found = Explanations(served.predictor, SETTINGS)
    if name in SILENT:
        assert SILENT[name] in found.unexplained and "/explain" not in served.document["paths"]
        return
    assert found.unexplained == "" and "/explain" in served.document["paths"]
    told = found.explainer.explain(served.golden["rows"][-3:], "skip")
    assert len(told["explanations"]) == 3
    for one in told["explanations"]:
        for output in one if isinstance(one, list) else [one] if one else []:
            share = sum(output["contributions"].values())
            assert share == pytest.approx(output["output"] - output["base"], rel=1e-9, abs=1e-9)


def test_answers_on_request_are_the_model_s_own(served):
    rows = served.golden["rows"]
    for extra in served.predictor.extras.names:
        answer = json.loads(served.ask("predict", orjson.dumps({"rows": rows, "outputs": [extra]})).body)
        assert np.shape(answer[extra])[0] == len(rows) and "predictions" not in answer
