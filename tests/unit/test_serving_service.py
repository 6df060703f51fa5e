"""The service in process: every status, bad input of every kind, what is logged, when it refuses."""

import asyncio
import errno
import json
import os
import shutil
import time
from pathlib import Path

import httpx
import pytest
from handmade_bundle import census, census_bundle, json_rows, write_manifest
from sklearn.dummy import DummyRegressor

from mlworkbench.monitoring import logs
from mlworkbench.serving.application import Application
from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.integrity import content_sha256, sha256_file
from mlworkbench.serving.log import find_record, read_records
from mlworkbench.serving.predictor import Cost, Predictor
from mlworkbench.serving.service import ROUTES, Front, Workshop, find_route
from mlworkbench.serving.signature import Column, Signature

JSON = {"content-type": "application/json"}


async def behind(scope, receive, send):
    """BentoML's place: only /schema.json is passed on."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"behind"})


class Client:
    """Calls an application's front in process."""

    def __init__(self, application: Application):
        self.application, self.front = application, Front(behind, application)

    def __call__(self, method: str, path: str, **rest) -> httpx.Response:
        async def once() -> httpx.Response:
            transport = httpx.ASGITransport(self.front, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.request(method, path, **rest)

        return asyncio.run(once())

    def predict(self, **body) -> httpx.Response:
        return self("POST", "/predict", json=body)

    def logged(self, kind: str = "predictions") -> list[dict]:
        return list(read_records(self.application.log.folder, kind))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return census_bundle(tmp_path_factory.mktemp("bundle") / "census", max_rows=50, max_body_mb=0.1, timeout_s=5)


@pytest.fixture
def copy(bundle, tmp_path):
    """A copy of the bundle, to be spoilt."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def settings(folder: Path, **changes: object) -> Path:
    """Another service.json under a true manifest."""
    path = folder / "service.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return write_manifest(folder)


@pytest.fixture(scope="module")
def rows():
    return json_rows(census()[0].head(60))


@pytest.fixture
def client(bundle, tmp_path):
    environment = {"MLW_LOG_DIR": str(tmp_path / "log"), "MLW_DEPLOYMENT": "unit"}
    client = Client(Application(bundle, environment).start())
    assert client.application.refusal is None
    yield client
    client.application.log.close()


def errors(response: httpx.Response) -> list[dict]:
    """An error body has one form, whatever went wrong, and never a trace."""
    body = response.json()
    assert set(body) == {"errors", "request_id"} and body["request_id"] == response.headers["x-request-id"]
    assert all(set(e) == {"row", "column", "problem", "got"} for e in body["errors"]) and body["errors"]
    assert "Traceback" not in response.text and 'File "' not in response.text
    return body["errors"]


def test_predictions_are_the_model_s_and_each_is_in_the_log(client, rows):
    response = client.predict(rows=rows[:3])
    answer = response.json()
    model = client.application.predictor.estimator
    X = census()[0].head(3)
    assert response.status_code == 200 and answer["predictions"] == model.predict(X).tolist()
    assert answer["probabilities"] == model.predict_proba(X).tolist()
    record = find_record(client.application.log.folder, answer["prediction_ids"][2])
    assert record["inputs"] == rows[2] and record["row"] == 2 and record["deployment"] == "unit"
    assert record["outputs"] == {"prediction": answer["predictions"][2], "probabilities": answer["probabilities"][2]}
    assert record["request_id"] == response.headers["x-request-id"] and record["model"] == answer["model"]
    assert record["latency_ms"] > 0 and record["status"] == 200


@pytest.mark.parametrize(("sent", "logged"), [
    ({"x-probe-token": "secret"}, "golden-0"), ({}, "caller:golden-0"), ({"x-probe-token": "guess"}, "caller:golden-0"),
    ({"x-probe-token": ""}, "caller:golden-0"), ({"x-probe-token": "sécret".encode()}, "caller:golden-0"),
])  # fmt: skip
def test_only_the_launcher_s_token_takes_a_request_out_of_monitoring(sent, logged, bundle, rows, tmp_path):
    environment = {"MLW_LOG_DIR": str(tmp_path), "MLW_PROBE_TOKEN": "secret"}
    client = Client(Application(bundle, environment).start())
    tag = client.application.predictor.tag
    for body in ({"rows": rows[:2]}, {"rows": [{}]}):
        client("POST", "/predict", json=body, headers={"x-request-id": "golden-0"} | sent)
    assert {r["request_id"] for kind in ("predictions", "rejected") for r in client.logged(kind)} == {logged}
    view, counted = logs.LogView(tmp_path, tag), logged != "golden-0"
    assert (logs.volume(view).rows, logs.rejected(view)[0]) == (2 * counted, int(counted))


def test_a_service_that_was_given_no_token_takes_none(bundle, rows, tmp_path):
    client = Client(Application(bundle, {"MLW_LOG_DIR": str(tmp_path)}).start())
    client("POST", "/predict", json={"rows": rows[:1]}, headers={"x-request-id": "golden-0", "x-probe-token": ""})
    assert [r["request_id"] for r in client.logged()] == ["caller:golden-0"]


BODIES = [
    (b"", "must be JSON"), (b"{rows", "must be JSON"), (b'{"rows":[{"age":NaN}]}', "send null for a missing value"),
    (b'{"rows":[{"age":-Infinity}]}', "send null for a missing value"), (b'{"rows":[{"age":1e999}]}', "must be JSON"),
    (b'{"rows":[{"age":"\xff"}]}', "must be JSON"), (b'"\\ud800"', "must be JSON"), (b"[" * 5000, "must be JSON"),
    (b"\x00\x01", "must be JSON"), (b"[]", "must be an object"), (b"null", "must be an object"), (b"7", "must be an object"),
    (b"{}", "must hold 'rows'"), (b'{"rows":[]}', "at least one"), (b'{"rows":{}}', "must be a list"),
    (b'{"rows":null}', "must be a list"), (b'{"rows":[1]}', "must be an object"), (b'{"rows":[null]}', "must be an object"),
    (b'{"row":[]}', "Did you mean 'rows'?"), (b'{"rows":[{}],"on_error":"ignore"}', "one of fail, skip"),
    (b'{"rows":[{}],"on_error":null}', "fail or skip"), (b'{"rows":[{}],"on_error":["skip"]}', "fail or skip"),
]


@pytest.mark.parametrize(("body", "text"), BODIES)
def test_a_body_that_is_not_as_it_must_be_is_a_400_with_the_reason(client, body, text):
    response = client("POST", "/predict", content=body, headers=JSON)
    assert response.status_code == 400 and text in errors(response)[0]["problem"]
    assert client.logged() == [] and client.logged("rejected")[0]["status"] == 400


def test_faults_of_rows_name_row_column_problem_and_value(client, rows):
    bad = [rows[0], rows[1] | {"age": "forty"}, {k: v for k, v in rows[2].items() if k != "sex"} | {"sx": "male"}]
    found = errors(client.predict(rows=bad))
    assert found[0] == {"row": 1, "column": "age", "problem": "must be a number", "got": "forty"}
    assert {(e["row"], e["column"], e["problem"][:24]) for e in found[1:]} == {
        (2, "sx", "unknown column. Did you "), (2, "sex", "required column is absen"),
    }
    assert client.logged() == []


def test_a_bad_row_is_left_out_when_asked(client, rows):
    answer = client.predict(rows=[rows[0], rows[1] | {"age": "forty"}, rows[2]], on_error="skip").json()
    assert [p is None for p in answer["predictions"]] == [False, True, False]
    assert [i is None for i in answer["prediction_ids"]] == [False, True, False]
    assert answer["probabilities"][1] is None and answer["errors"][0]["row"] == 1
    assert [r["row"] for r in client.logged()] == [0, 2]
    (refused,) = client.logged("rejected")
    assert refused["status"] == 200 and refused["rows"] == 3 and refused["errors"][0]["column"] == "age"


def test_values_outside_of_the_reference_data_are_answered_and_flagged(client, rows):
    assert client.predict(rows=[rows[0] | {"age": 150, "sex": "unknown"}]).status_code == 200
    assert client.logged()[0]["flags"] == ["out_of_range:age", "unseen_category:sex"]


def test_too_many_rows_and_too_large_bodies_are_413(client, rows):
    assert "at most 50 entries" in errors(client.predict(rows=rows[:51]))[0]["problem"]
    for content in (b" " * 200_000, iter([b" " * 50_000] * 10)):
        async def parts(content=content):
            for part in [content] if isinstance(content, bytes) else content:
                yield part

        response = client("POST", "/predict", content=parts(), headers=JSON)
        assert response.status_code == 413 and "at most 104857 bytes" in errors(response)[0]["problem"]


@pytest.mark.parametrize("kind", ["text/csv", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_content_type_is_415(client, kind):
    response = client("POST", "/predict", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 415 and errors(response)[0]["got"] == kind


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.census+json"])
def test_json_by_another_name_is_taken(client, rows, kind):
    body = json.dumps({"rows": rows[:1]}).encode()
    assert client("POST", "/predict", content=body, headers={"content-type": kind}).status_code == 200


def test_a_compressed_body_is_415(client):
    response = client("POST", "/predict", content=b"x", headers={**JSON, "content-encoding": "gzip"})
    assert response.status_code == 415 and errors(response)[0]["got"] == "gzip"


@pytest.mark.parametrize("path", ["/predcit", "/predict/", "/static_content/a.js", "/schema.json/"])
def test_an_unknown_path_is_404(client, path):
    response = client("GET", path)
    assert response.status_code == 404
    errors(response)


def test_a_misspelt_path_is_told_the_closest():
    with pytest.raises(ServiceError, match="Did you mean '/predict'"):
        find_route("POST", "/predcit")


@pytest.mark.parametrize("path", sorted(ROUTES))
def test_another_method_is_405_and_names_the_right_one(client, path):
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if ROUTES[path].method == "POST" else "POST"):
        response = client(method, path)
        assert response.status_code == 405 and ROUTES[path].method in response.headers["allow"]


def test_documents_name_the_real_columns_and_an_example_that_works(client, rows):
    signature, docs = client("GET", "/signature").json(), client("GET", "/docs.json").json()
    assert [c["name"] for c in signature["columns"]] == list(rows[0])
    assert set(docs["components"]["schemas"]["Row"]["properties"]) == set(rows[0])
    assert set(docs["paths"]) == {path.format(model="census", version="0123456789abcdef") for path in ROUTES}
    post = docs["paths"]["/predict"]["post"]
    assert client.predict(**post["requestBody"]["content"]["application/json"]["example"]).status_code == 200


def test_the_model_route_says_what_is_served(client):
    about = client("GET", "/model").json()
    assert about["tag"] == "census:0123456789abcdef" and about["logged"] and about["parity_at_start"]["labels_differ"] == 0
    assert len(about["files"]["model/model.skops"]) == 64 and about["libraries"]["numpy"]


def test_the_page_allows_nothing_from_elsewhere(client):
    page = client("GET", "/")
    assert page.headers["content-type"].startswith("text/html") and "://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_head_answers_without_a_body(client):
    response = client("HEAD", "/model")
    assert response.status_code == 200 and response.content == b"" and int(response.headers["content-length"]) > 100


def test_a_request_id_is_kept_when_harmless(client, rows):
    def id_for(given: str) -> str:
        return client("GET", "/signature", headers={"x-request-id": given}).headers["x-request-id"]

    assert id_for("order-7:a/b") == "order-7:a/b"
    for given in ("a b", "x" * 129, "a;b", "ü"):
        assert id_for(given.encode("utf-8")) != given


def test_feedback_is_recorded_for_known_ids(client, rows):
    ids = client.predict(rows=rows[:2]).json()["prediction_ids"]
    labels = [{"prediction_id": i, "label": v} for i, v in ((ids[0], "yes"), ("nobody", "no"), (ids[0], "no"))]
    answer = client("POST", "/feedback", json={"labels": labels}).json()
    assert answer["recorded"] == 2 and answer["unknown"] == ["nobody"]
    assert [(r["prediction_id"], r["label"]) for r in client.logged("labels")] == [(ids[0], "yes"), (ids[0], "no")]


@pytest.mark.parametrize(("entry", "text"), [
    ({"prediction_id": "a", "label": "maybe"}, "one of the classes"), ({"prediction_id": "a", "label": None}, "one of"),
    ({"prediction_id": "a", "label": ["yes"]}, "must not be a list"), ({"prediction_id": 7, "label": "yes"}, "a string"),
    ({"id": "a", "label": "yes"}, "must be an object with"), ({"prediction_id": "a"}, "must be an object with"), (3, "object"),
])
def test_a_label_that_cannot_be_is_refused_and_nothing_recorded(client, rows, entry, text):
    known = client.predict(rows=rows[:1]).json()["prediction_ids"][0]
    labels = [{"prediction_id": known, "label": "yes"}, entry]
    response = client("POST", "/feedback", json={"labels": labels})
    assert response.status_code == 400 and errors(response)[0]["row"] == 1 and text in errors(response)[0]["problem"]
    assert client.logged("labels") == []


def test_without_a_log_predictions_are_given_and_feedback_is_an_honest_404(bundle, rows):
    client = Client(Application(bundle, {}).start())
    answer = client.predict(rows=rows[:2]).json()
    assert len(set(answer["prediction_ids"])) == 2 and not client("GET", "/model").json()["logged"]
    response = client("POST", "/feedback", json={"labels": [{"prediction_id": answer["prediction_ids"][0], "label": "no"}]})
    assert response.status_code == 404 and "no prediction log" in errors(response)[0]["problem"]


def test_explanations_have_limits_of_their_own(client, rows):
    def refused(**body) -> tuple[int, str]:
        response = client("POST", "/explain", json=body)
        return response.status_code, errors(response)[0]["problem"]

    assert refused(rows=rows[:11]) == (413, "'rows' must hold at most 10 entries. Send several requests")
    assert refused(rows=rows[:1], evaluations=5000)[1] == "evaluations must be a whole number from 30 to 1024"
    for bad in (1, 0, -5, 29, 64.5, "64", True, [64]):
        assert refused(rows=rows[:1], evaluations=bad)[0] == 400
    assert refused(rows=rows[:1], on_error=3)[0] == refused(rows=rows[:1], on_error="keep")[0] == 400
    assert "Did you mean 'evaluations'" in refused(rows=rows[:1], evaluation=64)[1]
    assert refused(rows=[rows[0] | {"age": "old"}])[1] == "must be a number"
    assert client.logged() == [] and client.logged("rejected") == []  # an explanation is no prediction


def test_a_row_with_more_columns_than_the_evaluations_pay_for_is_refused(copy, rows):
    client = Client(Application(settings(copy, explain_evaluations=8), {}).start())
    response = client("POST", "/explain", json={"rows": rows[:1]})
    assert response.status_code == 400 and "in at most 4 columns, for 8 evaluations" in errors(response)[0]["problem"]


def test_an_explanation_gives_up_with_its_caller(client, rows):
    client.application.answers.explanations.timeout_s = 0
    response = client("POST", "/explain", json={"rows": rows[:1]})
    assert response.status_code == 504 and "fewer evaluations" in errors(response)[0]["problem"]


def test_what_is_not_explained_is_a_404_that_says_why(copy, rows):
    client = Client(Application(settings(copy, explain_rows=0), {}).start())
    response = client("POST", "/explain", json={"rows": rows[:1]})
    assert response.status_code == 404 and "explain_rows is 0" in errors(response)[0]["problem"]
    about = client("GET", "/model").json()["explain"]
    assert about["offered"] is False and about["reason"] and "/explain" not in client("GET", "/docs.json").json()["paths"]


def test_another_model_and_another_version_are_404(client, rows):
    old = "/v2/models/census/versions/2"
    for path in ("/v2/models/senate", old, "/v2/models/%7Bmodel%7D"):
        response = client("GET", path)
        assert response.status_code == 404 and "there is" in response.json()["error"], path
    for path in (f"{old}/ready", "/v2/models/senate/ready"):  # asked without a key, so nothing of the model is told
        response = client("GET", path)
        assert response.status_code == 404 and "there is" not in response.text and "census:" not in response.text, path
    response = client("POST", "/v2/models/senate/infer", json={})
    assert response.status_code == 404 and response.json()["error"].startswith("no such model: there is census")


def test_very_many_faults_are_told_in_part_and_each_row_has_one(client):
    response = client.predict(rows=[{}] * 50)
    assert len(errors(response)) == len({(e["row"], e["column"]) for e in errors(response)}) < 1000
    wide = Signature([Column(f"x{i}", "number", "float64") for i in range(100)])
    predictor = Predictor(DummyRegressor(), wide)
    with pytest.raises(ServiceError, match="and 10000 more") as caught:  # one note of those that are not listed
        predictor.read([{}] * 10_000)
    told = caught.value.errors
    assert len(told) == 10_001 and {e["row"] for e in told} == {*range(10_000), None}
    assert told[-1]["problem"] == "990000 more faults of these rows are not listed"


def test_metrics_count_requests_rows_rejects_and_flags(client, rows):
    client.predict(rows=[rows[0] | {"age": 150}, rows[1]])
    client.predict(rows=[rows[0] | {"age": "x"}])
    client.predict(rows=[rows[0] | {"x" * 500: 1}])
    client("GET", "/nothing/" + "y" * 500)
    lines = client("GET", "/metrics").text.splitlines()
    for line in (
        'mlw_requests_total{route="/predict",status="200"} 1.0', 'mlw_requests_total{route="/predict",status="400"} 2.0',
        'mlw_requests_total{route="other",status="404"} 1.0', "mlw_rows_total 2.0",
        'mlw_rejected_total{column="age",reason="wrong_type"} 1.0', 'mlw_rejected_total{column="",reason="unknown_column"} 1.0',
        'mlw_flagged_total{column="age",flag="out_of_range"} 1.0',
        'mlw_model_info{deployment="unit",model="census:0123456789abcdef"} 1.0',
    ):
        assert line in lines


def test_a_full_disk_means_no_prediction_and_an_honest_503(client, rows, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    client.predict(rows=rows[:1])
    monkeypatch.setattr(os, "write", full)
    response = client.predict(rows=rows[:1])
    assert response.status_code == 503 and response.headers["retry-after"] and "log" in errors(response)[0]["problem"]
    assert client.predict(rows=[{}]).status_code == 400
    monkeypatch.undo()
    assert client.predict(rows=rows[:1]).status_code == 200
    assert "mlw_log_failures_total 2.0" in client("GET", "/metrics").text and len(client.logged()) == 2


def test_a_full_disk_is_passed_over_where_the_setting_says_so(copy, tmp_path, rows, monkeypatch):
    bundle = settings(copy, log_failure="serve")
    client = Client(Application(bundle, {"MLW_LOG_DIR": str(tmp_path / "log")}).start())
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: (_ for _ in ()).throw(OSError(errno.EROFS, "Read-only")))
    response = client.predict(rows=rows[:1])
    monkeypatch.setattr(os, "write", real)
    assert response.status_code == 200 and response.json()["prediction_ids"] == [None]


def test_a_fault_of_ours_is_a_500_without_a_trace(client, rows, monkeypatch):
    monkeypatch.setattr(client.application.predictor.estimator, "predict", lambda X: 1 / len(X) + None, raising=False)
    monkeypatch.setattr(client.application.predictor, "answer", lambda *a: (_ for _ in ()).throw(RuntimeError("secret")))
    response = client.predict(rows=rows[:1])
    assert response.status_code == 500 and "secret" not in response.text
    errors(response)


def test_a_slow_model_is_a_504_and_not_in_the_log(client, rows, monkeypatch):
    client.application.settings["timeout_s"] = 0.1
    client.front = Front(behind, client.application)
    client.application.cost = Cost(1.0)
    real = client.application.predictor.answer

    def slow(*arguments):
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(client.application.predictor, "answer", slow)
    response = client.predict(rows=rows[:1])
    assert response.status_code == 504 and "within 0.1 s" in errors(response)[0]["problem"]
    time.sleep(0.5)
    assert client.logged() == []


def test_a_full_queue_is_a_503_that_says_when_to_come_back_and_then_recovers():
    async def crowd() -> list:
        shop = Workshop(queue=2, timeout_s=5)
        first = await asyncio.gather(*(shop.run(time.sleep, 0.2) for _ in range(10)), return_exceptions=True)
        return [*first, await shop.run(lambda: "again")]

    outcome = asyncio.run(crowd())
    refused = [e for e in outcome if getattr(e, "status", None) == 503]
    assert len(refused) == 7 and all(e.headers["retry-after"] == "1" for e in refused) and outcome[-1] == "again"


def refusing(folder, rows, text: str) -> None:
    """The refusing state: the process lives, every other route is a 503 with the reason."""
    client = Client(Application(folder, {}).start())
    assert client("GET", "/livez").status_code == 200
    for path, route in ROUTES.items():
        if not route.early:
            response = client(route.method, path)
            assert response.status_code == 503 and response.headers["retry-after"], path
            assert text in (response.json()["error"] if path.startswith("/v2") else errors(response)[0]["problem"])
    assert {path for path, route in ROUTES.items() if route.early} == {"/livez", "/v2/health/live"}
    assert client("GET", "/v2/health/live").json() == {"live": True}


def test_a_changed_file_means_refusing(copy, rows):
    path = copy / "model/model.skops"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    refusing(copy, rows, "model/model.skops was changed")


def test_other_libraries_mean_refusing_or_a_warning(copy, rows):
    write_manifest(copy, libraries={"numpy": "1.0.0"})
    refusing(copy, rows, "numpy must be 1.0.0")
    settings(copy, versions="warn")
    write_manifest(copy, libraries={"numpy": "1.0.0"})
    client = Client(Application(copy, {}).start())
    assert client.predict(rows=rows[:1]).status_code == 200
    assert "numpy must be 1.0.0" in client("GET", "/model").json()["warnings"][0]


def test_golden_rows_that_differ_mean_refusing(copy, rows):
    golden = json.loads((copy / "golden.json").read_text())
    golden["probabilities"][3][0] += 1e-6
    (copy / "golden.json").write_text(json.dumps(golden))
    write_manifest(copy)
    refusing(copy, rows, "the worst difference is")


@pytest.mark.parametrize("name", ["manifest.json", "signature.json", "service.json", "golden.json", "model/model.skops"])
def test_a_missing_file_means_refusing(copy, rows, name):
    (copy / name).unlink()
    refusing(copy, rows, name)


@pytest.mark.parametrize("name", ["signature.json", "service.json", "golden.json", "model/model.skops"])
def test_a_broken_file_with_a_true_manifest_means_refusing_and_not_dying(copy, rows, name):
    (copy / name).write_bytes(b'{"half":')
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] = sha256_file(copy / name)
    (copy / "manifest.json").write_text(json.dumps(manifest | {"content_sha256": content_sha256(manifest)}))
    refusing(copy, rows, "this service refuses to answer")


def test_a_log_folder_that_cannot_be_made_means_refusing(tmp_path, bundle):
    (tmp_path / "file").write_text("")
    application = Application(bundle, {"MLW_LOG_DIR": str(tmp_path / "file/log")}).start()
    assert "must be writable" in application.refusal


def test_before_the_start_a_service_is_not_ready(bundle):
    client = Client(Application(bundle, {}))
    response = client("GET", "/readyz")
    assert response.status_code == 503 and "being loaded" in errors(response)[0]["problem"]
    assert client("GET", "/livez").status_code == 200
