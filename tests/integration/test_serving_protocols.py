"""One running service, every client: the same rows give the same answers, whatever protocol asks, and none needs a change."""

import csv
import io
import json
import subprocess

import bentoml
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from bentoml.exceptions import BentoMLException
from handmade_bundle import Served, census, census_bundle, json_rows
from tritonclient.utils import InferenceServerException

from mlworkbench.serving.infer_v2 import v2_answer, v2_request
from mlworkbench.serving.log import find_record
from mlworkbench.serving.signature import Signature

KEY = "a-key-for-these-tests"
BEARER = {"authorization": f"Bearer {KEY}"}  # tritonclient writes into the headers that it is given: give it a copy
VERSION = "0123456789abcdef"
INFER = "/v2/models/census/infer"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("protocols")
    bundle = census_bundle(home / "census", auth="on", max_rows=200, explain_rows=3, explain_evaluations=64)
    with Served(bundle, home=home, log=home / "log", MLW_API_KEY=KEY) as served:
        served.log = home / "log"
        yield served


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """Twenty people, of whom some have values missing."""
    found = json_rows(census()[0].head(400))
    lacking = [row for row in found if None in row.values()]
    assert lacking
    return lacking[:5] + found[:15]


@pytest.fixture(scope="module")
def signature(served) -> Signature:
    return Signature.from_dict(call(served, "GET", "/signature").json())


@pytest.fixture(scope="module")
def told(served, rows) -> dict:
    """What /predict says: what all others must say, too."""
    return call(served, "POST", "/predict", json={"rows": rows}).json()


def call(served: Served, method: str, path: str, **rest) -> httpx.Response:
    headers = {**BEARER, **rest.pop("headers", {})}
    return httpx.request(method, served.url + path, headers=headers, timeout=30, **rest)


def same(answer: dict, told: dict) -> bool:
    return all(answer[name] == told[name] for name in ("predictions", "probabilities"))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("path", [INFER, f"/v2/models/census/versions/{VERSION}/infer"])
def test_v2_says_what_predict_says(served, signature, rows, told, path, binary):
    body, headers = v2_request(signature, rows, binary)
    reply = call(served, "POST", path, content=body, headers=headers)
    answer = v2_answer(reply.content, reply.headers)
    assert reply.status_code == 200 and same(answer, told)
    assert answer["model"] == told["model"] and answer["classes"] == told["classes"]
    record = find_record(served.log, answer["prediction_ids"][3])
    assert record["inputs"] == rows[3] and record["row"] == 3


def test_bytes_are_given_only_where_they_are_asked_for(served, signature, rows):
    body, headers = v2_request(signature, rows[:2])
    reply = call(served, "POST", INFER, content=body, headers=headers)
    assert "inference-header-content-length" not in reply.headers and reply.headers["content-type"] == "application/json"
    head = json.loads(body) | {"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}
    reply = call(served, "POST", INFER, content=json.dumps(head), headers=headers)
    length = int(reply.headers["inference-header-content-length"])
    assert len(reply.content) - length == 2 * 2 * 8 and len(json.loads(reply.content[:length])["outputs"]) == 1


FORMS = {
    "list": lambda rows, names: json.dumps(rows),
    "rows": lambda rows, names: json.dumps({"rows": rows}),
    "instances": lambda rows, names: json.dumps({"instances": [[row[n] for n in names] for row in rows]}),
    "split": lambda rows, names: json.dumps({"columns": names, "data": [[row[n] for n in names] for row in rows]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_sagemaker_s_json_says_what_predict_says(served, signature, rows, told, form):
    headers = {"content-type": "application/json", "accept": "application/json"}
    reply = call(served, "POST", "/invocations", content=FORMS[form](rows, signature.names), headers=headers)
    assert same(reply.json(), told)


@pytest.mark.parametrize("header", [True, False])
def test_sagemaker_s_csv_says_what_predict_says(served, signature, rows, told, header):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if header:
        writer.writerow(signature.names)
    writer.writerows([[row[name] for name in signature.names] for row in rows])
    headers = {"content-type": "text/csv", "accept": "text/csv"}
    reply = call(served, "POST", "/invocations", content=text.getvalue().encode(), headers=headers)
    assert reply.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(reply.text)))
    assert (lines[0] == ["prediction", "probability_no", "probability_yes", "prediction_id"]) is header
    lines = lines[header:]
    assert [line[0] for line in lines] == told["predictions"]
    assert [[float(line[1]), float(line[2])] for line in lines] == told["probabilities"]


def test_lines_of_json_say_what_predict_says(served, rows, told):
    body = "\n".join(json.dumps(row) for row in rows)
    headers = {"content-type": "application/jsonlines", "accept": "application/jsonlines"}
    lines = [json.loads(line) for line in call(served, "POST", "/invocations", content=body, headers=headers).text.splitlines()]
    assert same({"predictions": [x["prediction"] for x in lines], "probabilities": [x["probabilities"] for x in lines]}, told)


def test_curl_says_what_predict_says_through_every_protocol(served, signature, rows, told, need, tmp_path):
    curl = need("curl", "Install curl.")

    def post(path: str, body: bytes, *headers: str) -> bytes:
        (tmp_path / "body").write_bytes(body)
        sent = [part for header in (f"X-Api-Key: {KEY}", *headers) for part in ("-H", header)]
        command = [curl, "-sS", "--fail-with-body", *sent, "--data-binary", f"@{tmp_path / 'body'}", served.url + path]
        return subprocess.run(command, capture_output=True, check=True, timeout=30).stdout

    assert same(json.loads(post("/predict", json.dumps({"rows": rows}).encode(), "Content-Type: application/json")), told)
    body, _ = v2_request(signature, rows)
    assert same(v2_answer(post(INFER, body, "Content-Type: application/json"), {}), told)
    assert same(json.loads(post("/invocations", json.dumps(rows).encode(), "Content-Type: application/json")), told)


def triton_inputs(signature: Signature, rows: list[dict], binary: bool) -> tuple[list[triton.InferInput], dict[str, str]]:
    """Columns as a user of tritonclient sends them; missing texts are named in the request's parameters."""
    inputs, missing = [], {}
    for column in signature.columns:
        values = [row[column.name] for row in rows]
        if column.type == "number":
            array = np.array([np.nan if v is None else v for v in values]).reshape(-1, 1)
            kind = "FP64"
        else:
            array, kind = np.array(["" if v is None else v for v in values], dtype=object).reshape(-1, 1), "BYTES"
            if None in values:
                missing[f"missing:{column.name}"] = ",".join(str(i) for i, v in enumerate(values) if v is None)
        tensor = triton.InferInput(column.name, list(array.shape), kind)
        inputs.append(tensor.set_data_from_numpy(array, binary_data=binary))
    return inputs, missing


@pytest.fixture(scope="module")
def client(served):
    with triton.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client


def test_tritonclient_finds_the_server_and_the_model(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("census") and client.is_model_ready("census", VERSION)
    assert not client.is_model_ready("senate") and not client.is_model_ready("census", "2")
    assert "binary_tensor_data" in client.get_server_metadata(headers=dict(BEARER))["extensions"]
    for version in ("", VERSION):
        told = client.get_model_metadata("census", version, headers=dict(BEARER))
        assert told["name"] == "census" and told["versions"] == [VERSION]
        assert {"name": "age", "datatype": "FP64", "shape": [-1]} in told["inputs"]
        assert {"name": "sex", "datatype": "BYTES", "shape": [-1]} in told["inputs"]
        assert told["outputs"][:2] == [
            {"name": "predictions", "datatype": "BYTES", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]},
        ]  # fmt: skip


@pytest.mark.parametrize("binary_answer", [False, True, None])
def test_tritonclient_says_what_predict_says(client, signature, rows, told, binary_answer):
    # in JSON it would write NaN, which is none: only whole rows can be sent so
    inputs, missing = triton_inputs(signature, rows, binary=True)
    outputs = None
    if binary_answer is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=binary_answer) for name in ("predictions", "probabilities")]
    result = client.infer("census", inputs, outputs=outputs, request_id="7", headers=dict(BEARER), parameters=missing)
    texts = [v.decode() if isinstance(v, bytes) else v for v in result.as_numpy("predictions").tolist()]
    assert texts == told["predictions"] and result.as_numpy("probabilities").tolist() == told["probabilities"]
    assert result.get_response()["id"] == "7"


def test_tritonclient_says_what_predict_says_without_bytes(client, served, signature, rows):
    whole = [row for row in rows if None not in row.values()]
    told = call(served, "POST", "/predict", json={"rows": whole}).json()
    inputs, missing = triton_inputs(signature, whole, binary=False)
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=False)]
    result = client.infer("census", inputs, model_version=VERSION, outputs=outputs, headers=dict(BEARER))
    assert missing == {} and result.as_numpy("probabilities").tolist() == told["probabilities"]
    assert result.as_numpy("predictions") is None


def test_tritonclient_reads_the_reason_of_a_refusal(client, signature, rows):
    inputs, _ = triton_inputs(signature, rows[5:6], binary=True)
    with pytest.raises(InferenceServerException, match=r"\[400\].*age.*finite"):
        age = next(tensor for tensor in inputs if tensor.name() == "age")
        age.set_data_from_numpy(np.array([[np.inf]]))
        client.infer("census", inputs, headers=dict(BEARER))
    with pytest.raises(InferenceServerException, match="Did you mean 'predictions'"):
        client.infer("census", inputs, outputs=[triton.InferRequestedOutput("prediction")], headers=dict(BEARER))
    with pytest.raises(InferenceServerException, match=r"\[404\] no such model: there is census"):
        client.infer("senate", inputs, headers=dict(BEARER))
    with pytest.raises(InferenceServerException, match=r"\[401\].*API key"):
        client.infer("census", inputs)


def test_bentoml_s_client_works_with_a_key_and_not_without(served, rows, told):
    with bentoml.SyncHTTPClient(served.url, token=KEY, server_ready_timeout=10) as client:
        assert client.is_ready() and same(client.predict(rows=rows), told)
        assert len(client.predict(rows=rows, outputs=["decision"])["decision"]) == len(rows)
        with pytest.raises(BentoMLException, match="must be a number"):
            client.predict(rows=[rows[0] | {"age": "old"}])
    with pytest.raises(BentoMLException):
        bentoml.SyncHTTPClient(served.url).predict(rows=rows)


def test_every_example_of_the_document_works(served):
    document = call(served, "GET", "/docs.json").json()
    asked = []
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            if method == "get":
                assert call(served, "GET", path).status_code == 200, path
                continue
            for kind, media in about["requestBody"]["content"].items():
                if kind in ("application/octet-stream", "application/jsonlines"):  # these have no example
                    continue
                example = media["example"]
                body = example if isinstance(example, str) else json.dumps(example)
                reply = call(served, "POST", path, content=body.encode(), headers={"content-type": kind})
                assert reply.status_code == 200, (path, kind, reply.text)
                asked.append((path, kind))
    assert {path for path, _ in asked} >= {"/predict", "/explain", "/feedback", "/invocations", INFER}


def test_only_health_is_open(served):
    document = call(served, "GET", "/docs.json").json()
    assert document["components"]["securitySchemes"] and document["security"]
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            reply = httpx.request(method.upper(), served.url + path, content=b"{}")
            assert reply.status_code == (200 if about.get("security") == [] else 401), path
            if reply.status_code == 401 and path.startswith("/v2"):
                assert "API key" in reply.json()["error"]


def test_a_browser_without_a_key_gets_the_page_and_nothing_of_the_model(served):
    reply = httpx.get(served.url, headers={"accept": "text/html,*/*"})
    assert reply.status_code == 401 and reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"] and "www-authenticate" in reply.headers
    assert "census" not in reply.text and "API key" in reply.text


def test_explanations_add_up_to_what_predict_says(served, rows):
    body = {"rows": rows[:3], "evaluations": 64}
    found = call(served, "POST", "/explain", json=body).json()
    told = call(served, "POST", "/predict", json={"rows": rows[:3]}).json()
    for one, (_, yes) in zip(found["explanations"], told["probabilities"], strict=True):
        assert one["of"] == "yes" and one["output"] == pytest.approx(yes, abs=1e-12)
        assert sum(one["contributions"].values()) == pytest.approx(one["output"] - one["base"], abs=1e-9)
        assert set(one["contributions"]) == set(rows[0])
    about = call(served, "GET", "/model").json()
    assert about["explain"] == {"offered": True, "max_rows": 3, "evaluations": 64}
    assert call(served, "POST", "/explain", json={"rows": rows[:4]}).status_code == 413


def test_what_is_given_on_request_is_the_same_in_every_protocol(served, signature, rows):
    named = call(served, "POST", "/predict", json={"rows": rows, "outputs": ["decision"]}).json()
    assert set(named) == {"decision", "prediction_ids", "model", "classes"}
    body = json.loads(v2_request(signature, rows)[0]) | {"outputs": [{"name": "decision"}]}
    reply = call(served, "POST", INFER, json=body)
    assert v2_answer(reply.content, reply.headers)["decision"] == named["decision"]
    assert call(served, "GET", "/model").json()["on_request"] == ["decision"]
    assert call(served, "POST", "/predict", json={"rows": rows, "outputs": ["decisions"]}).status_code == 400


def test_a_bad_row_is_left_out_in_every_protocol_that_can_say_so(served, signature, rows):
    bad = [rows[0], rows[1] | {"age": "old"}, rows[2]]
    told = call(served, "POST", "/predict", json={"rows": bad, "on_error": "skip"}).json()
    head = json.loads(v2_request(signature, bad)[0]) | {"parameters": {"on_error": "skip"}}
    reply = call(served, "POST", INFER, json=head)
    answer = v2_answer(reply.content, reply.headers)
    assert same(answer, told) and answer["errors"] == told["errors"] and answer["prediction_ids"][1] is None
    assert same(call(served, "POST", "/invocations", json={"instances": bad, "on_error": "skip"}).json(), told)
    explained = call(served, "POST", "/explain", json={"rows": bad, "on_error": "skip"}).json()
    assert explained["explanations"][1] is None and explained["errors"] == told["errors"]


@pytest.mark.parametrize(("path", "kind", "status"), [
    ("/v2/models/senate/infer", "application/json", 404), (f"/v2/models/census/versions/{VERSION}0/infer", "text/csv", 404),
    (INFER, "text/csv", 415), ("/invocations", "text/plain", 415), ("/explain", "text/csv", 415),
    (INFER, "application/json", 400), ("/invocations", "text/csv", 400), ("/explain", "application/json", 400),
])  # fmt: skip
def test_refusals_are_in_the_form_of_their_protocol(served, path, kind, status):
    reply = call(served, "POST", path, content=b'{"age": ', headers={"content-type": kind})
    assert reply.status_code == status
    assert set(reply.json()) == ({"error"} if path.startswith("/v2") else {"errors", "request_id"})


def test_metrics_count_paths_and_never_a_caller_s_text(served):
    call(served, "GET", "/v2/models/" + "x" * 50)
    text = call(served, "GET", "/metrics").text
    assert 'route="/v2/models/{model}/infer"' in text and "x" * 50 not in text
