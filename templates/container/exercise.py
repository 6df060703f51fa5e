"""Asks a running service by every route, well and wrongly, so that all code that answers has been run.

Used twice: while an image is built, to see which packages answering needs; and on the finished image, where no route may
fail for want of what was left out. Needs Python's own library alone.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

JSON = "application/json"
SOUND = {"/predict", "/invocations", "/v2/models/{name}/infer"}  # what answers the golden rows by POST
PAGES = ("/", "/docs.json", "/schema.json", "/signature", "/model", "/metrics", "/healthz", "/livez", "/readyz", "/ping", "/v2",
         "/v2/health/live", "/v2/health/ready", "/v2/models/{name}", "/v2/models/{name}/ready",
         "/v2/models/{name}/versions/{version}", "/nowhere")


def csv_line(row: dict) -> str:
    """A row's values as a line of CSV; what holds a comma is quoted."""
    texts = ("" if v is None else json.dumps(v) if isinstance(v, (list, dict)) else str(v) for v in row.values())
    return ",".join('"' + t.replace('"', '""') + '"' if set(t) & set(',"\n') else t for t in texts)


def tensors(rows: list) -> dict:
    """Rows as a request of the Open Inference Protocol: a tensor of texts a column."""
    inputs = [{"name": name, "shape": [len(rows)], "datatype": "BYTES",
               "data": [None if row[name] is None else str(row[name]) for row in rows]} for name in (rows[0] if rows else ())]
    return {"inputs": inputs}


def requests_for(rows: list) -> Iterator[tuple[str, str, bytes]]:
    """Every POST: its path, its content type, its body."""
    one, few = rows[:1], rows[:3]
    for body in ({"rows": rows}, {"rows": one, "outputs": ["predictions"]}, {"rows": one, "outputs": ["?"]},
                 {"rows": [{"?": 1}, *few], "on_error": "skip"}, {"rows": [{"?": 1}]}, {"rows": []}, {}):
        yield "/predict", JSON, json.dumps(body).encode()
    yield "/predict", JSON, b"{"
    yield "/predict", "text/plain", b"?"
    lines = "\n".join(json.dumps(row) for row in few).encode()
    for kind, body in ((JSON, json.dumps(few).encode()), ("application/jsonlines", lines), ("image/png", b"?"),
                       ("text/csv", "\n".join(csv_line(row) for row in few).encode())):
        yield "/invocations", kind, body
    yield "/v2/models/{name}/infer", JSON, json.dumps(tensors(few)).encode()
    yield "/v2/models/{name}/infer", JSON, b'{"inputs": []}'
    yield "/v2/models/?/infer", JSON, b"{}"
    yield "/explain", JSON, json.dumps({"rows": one}).encode()
    labels = {"labels": [{"prediction_id": "?", "label": "?"}]}
    yield "/feedback", JSON, json.dumps(labels).encode()
    yield "/admin/forget", JSON, json.dumps({"prediction_ids": ["?"]}).encode()


def ask(url: str, path: str, probe: str, kind: str = "", body: bytes | None = None, timeout_s: float = 60.0) -> int:
    """The status of one request; one with a body is a POST."""
    headers = {"X-Request-Id": "mlw-probe-exercise"} | ({"X-Probe-Token": probe} if probe else {})
    request = urllib.request.Request(url + path, data=body, headers=headers | ({"Content-Type": kind} if kind else {}))
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s) as answer:
            answer.read()
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


def exercise(url: str, source: Path, probe: str) -> list[tuple[str, int]]:
    """Ask everything; the path and status of what was answered, in order.

    Parameters
    ----------
    url
        Of the running service.
    source
        The bundle's ``src`` folder: its golden rows are sent.
    probe
        The token that the service was started with.
    """
    golden = json.loads((source / "golden.json").read_text(encoding="utf-8"))
    manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
    named = {"{name}": manifest["name"], "{version}": manifest["version"]}
    found = [("/predict", ask(url, "/predict", "", JSON, b"{}"))]  # without a key

    def full(path: str) -> str:
        for mark, text in named.items():
            path = path.replace(mark, text)
        return path

    for path, kind, body in requests_for(golden["rows"][:200]):
        found.append((path, ask(url, full(path), probe, kind, body)))
    for path in PAGES:
        found.append((path, ask(url, full(path), probe)))
    return found


def faults(found: list[tuple[str, int]]) -> list[str]:
    """What a service may not answer to any of it: a fault of its own (it may be slow, or keep no log to forget from)."""
    return [f"{path}: {status}" for path, status in found if status >= 500 and status not in (503, 504)]
