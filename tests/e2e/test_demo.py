"""The whole way, as a person types it: `mlworkbench demo` in an empty home, and what it leaves."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
MLWORKBENCH = str(Path(sys.executable).with_name("mlworkbench"))
STAGES = ("evaluate", "bundle", "containerize", "deploy", "monitor")
CANARY = "canary-5f1c0d9e7b"
pytestmark = pytest.mark.timeout(1800)


def local_base_image() -> dict[str, str]:
    """The image of tests/base_image.sh in place of the default, which only a registry has; without it, no engine."""
    command = ["docker", "image", "inspect", "mlw-base:py311"]
    there = shutil.which("docker") and subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    if there and sys.version_info[:2] == (3, 11):
        return {"MLWORKBENCH_CONTAINERS_BASE_IMAGE": "mlw-base:py311"}
    assert os.environ.get("MLWORKBENCH_REQUIRE") != "all", "tests/base_image.sh must have made mlw-base:py311"
    return {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home, a workspace and a BentoML store in it, and a secret that must turn up nowhere."""
    folder = tmp_path_factory.mktemp("home")
    here = folder / "project"
    here.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith("MLWORKBENCH_")}
    environ |= {"HOME": str(folder), "MLWORKBENCH_WORKSPACE": str(folder / "workspace"), "BENTOML_HOME":
                str(folder / "bentoml"), "MY_API_TOKEN": CANARY, "DATABASE_URL": f"postgresql://ann:{CANARY}@db/x"}
    environ |= local_base_image()
    environ["MLWORKBENCH_EVALUATION_SKIP"] = "[explanation, robustness]"  # the two that take longest: the first demo has them
    # what uv has fetched before is kept from the real home: the demo in an empty one is measured elsewhere
    environ.setdefault("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv"))

    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([MLWORKBENCH, *arguments], cwd=here, env={**environ, **more}, capture_output=True,
                              text=True, timeout=900)

    yield SimpleNamespace(folder=folder, here=here, call=call, environ=environ)
    call("stop", "census-employment")


@pytest.fixture(scope="module")
def demo(home):
    done = home.call("demo", "--out", str(home.folder / "out"), MLWORKBENCH_EVALUATION_SKIP="[]")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    key = (home.folder / "workspace" / "deployments" / "census-employment" / "key").read_text().strip()
    return SimpleNamespace(output=done.stdout, url=done.stdout.strip().splitlines()[-1], out=home.folder / "out", key=key)


def get(url: str, key: str = "", body: dict | None = None) -> tuple[int, dict]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
            return answer.status, json.loads(text) if text.strip().startswith(("{", "[")) else {"text": text}
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read().decode() or "{}")


def test_the_demo_prints_the_url_and_five_notebooks_with_page_and_record(demo):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", demo.url)
    for number, stage in enumerate(STAGES, 1):
        for suffix in ("ipynb", "html", "json"):
            path = demo.out / f"{number}_{stage}" / f"{stage}.{suffix}"
            assert path.exists() and str(path) in demo.output
        record = json.loads((demo.out / f"{number}_{stage}" / f"{stage}.json").read_text())
        can_skip = stage == "containerize" and os.environ.get("MLWORKBENCH_REQUIRE") != "all"
        assert record["status"] == "passed" or can_skip and record["status"] == "skipped"


def test_the_service_of_the_demo_answers(demo):
    assert get(f"{demo.url}/healthz")[0] == 200
    assert get(f"{demo.url}/signature")[0] == 401
    status, signature = get(f"{demo.url}/signature", demo.key)
    assert status == 200 and "education" in [c["name"] for c in signature["columns"]]
    row = {c["name"]: None if c["nullable"] else (c["categories"] or [c["minimum"]])[0] for c in signature["columns"]}
    status, answer = get(f"{demo.url}/predict", demo.key, {"rows": [row, row]})
    assert status == 200 and len(answer["predictions"]) == len(answer["prediction_ids"]) == 2
    assert answer["model"].startswith("census-employment:")
    status, refusal = get(f"{demo.url}/predict", demo.key, {"rows": [{**row, "eduction": 3}]})
    assert status == 400 and refusal["errors"][0]["column"] == "eduction"


def test_from_a_prediction_the_trail_leads_to_the_executed_notebooks_and_every_hash_is_the_recorded_one(home, demo):
    _, signature = get(f"{demo.url}/signature", demo.key)
    row = {c["name"]: None if c["nullable"] else (c["categories"] or [c["minimum"]])[0] for c in signature["columns"]}
    asked = get(f"{demo.url}/predict", demo.key, {"rows": [row]})[1]["prediction_ids"][0]
    done = home.call("trace", asked, "--json")
    assert done.returncode == 0, done.stderr
    found = [station["kind"] for station in json.loads(done.stdout)["summary"]["stations"]]
    assert found == ["prediction", "deployment", "run", "bundle", "run", "evaluation", "run"]
    told = home.call("trace", asked).stdout
    lines = re.findall(r"^  (/.*)  \[as recorded\] ([0-9a-f]{64})$", told, re.M)
    recorded = dict(lines)
    assert {f"{demo.out}/{n}_{s}/{s}.ipynb" for n, s in ((1, "evaluate"), (2, "bundle"), (4, "deploy"))} <= set(recorded)
    assert all(hashlib.sha256(Path(path).read_bytes()).hexdigest() == sha256 for path, sha256 in recorded.items())
    assert told.count("\n  /") == len(lines) + 1  # the segment of the log, which grows
    page = demo.out / "1_evaluate" / "evaluate.html"
    kept = page.read_bytes()
    page.write_bytes(kept + b"<!-- better -->")
    changed = home.call("trace", asked)
    page.write_bytes(kept)
    assert changed.returncode == 1 and f"{page} was changed" in changed.stderr
    assert home.call("trace", "20260101T000000-00000000-0").returncode == 2


def test_the_line_that_the_demo_prints_to_try_it_works_as_it_stands(home, demo, need):
    need("curl", "Install curl.")
    line = next(line for line in demo.output.splitlines() if line.startswith("Try it:")).removeprefix("Try it:")
    done = subprocess.run(["sh", "-c", line], cwd=home.here, capture_output=True, text=True, timeout=60)
    assert "education" in [column["name"] for column in json.loads(done.stdout)["columns"]], done.stderr


def test_the_workbench_s_own_key_stands_in_its_file_and_nowhere_else(home, demo):
    own = home.folder / "workspace" / "deployments" / "census-employment" / "key"
    assert own.stat().st_mode & 0o777 == 0o600 and demo.key not in demo.output
    for path in (*demo.out.rglob("*"), *(home.folder / "workspace").rglob("*"), *home.here.rglob("*")):
        if path.is_file() and not path.is_symlink() and path != own:
            assert demo.key.encode() not in path.read_bytes(), path


def test_the_environment_that_serves_carries_no_notebook_baggage(home, demo):
    pythons = list((home.folder / ".cache" / "mlworkbench" / "environments").glob("*/bin/python"))
    assert pythons
    code = "import importlib.util as u; print([m for m in {} if u.find_spec(m)])".format(
        ["mlworkbench", "IPython", "papermill", "ipywidgets", "jupyterlab", "nbconvert", "matplotlib", "duckdb"])
    for python in pythons:
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, cwd=home.here)
        assert done.stdout.strip() == "[]", done.stderr


def test_the_report_names_ancestry_and_does_not_alarm(demo):
    record = json.loads((demo.out / "5_monitor" / "monitor.json").read_text())
    assert record["status"] == "passed"
    assert "ancestry" in json.dumps(record["summary"])
    assert "12,000" in (demo.out / "5_monitor" / "monitor.html").read_text() or "12000" in json.dumps(record["summary"])


def test_a_second_demo_works_and_the_simulated_drift_alarms(home, demo):
    done = home.call("demo", "--simulate-drift", "--no-keep", "--out", str(home.folder / "drifted"),
                     DOCKER_HOST="unix:///nowhere/docker.sock")  # the first one made the image
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
    record = json.loads((home.folder / "drifted" / "5_monitor" / "monitor.json").read_text())
    assert record["status"] == "failed" and any("age" in reason for reason in record["reasons"])
    assert "shifted on purpose" in done.stdout


def test_stages_find_what_the_demo_made(home, demo):
    assert "census-employment" in home.call("list").stdout
    failed = home.call("evaluate", "--gate", "accuracy >= 0.9999", "--out", str(home.folder / "gate"))
    assert failed.returncode == 1, failed.stderr
    assert {p.name for p in (home.folder / "gate").glob("evaluate.*")} >= {"evaluate.ipynb", "evaluate.html", "evaluate.json"}
    misspelt = home.call("evaluate", "--gte", "accuracy >= 0.9999")
    assert misspelt.returncode == 2 and "--gate" in misspelt.stderr


def test_a_secret_is_written_nowhere_even_when_it_is_typed_as_a_parameter(home, demo):
    typed = home.call("evaluate", "--data", f"https://ann:{CANARY}@files.example/rows.csv", "--out", str(home.folder / "typed"))
    assert typed.returncode == 2 and CANARY not in typed.stdout + typed.stderr
    named = home.call("evaluate", "--name", CANARY, "--out", str(home.folder / "named"))
    assert CANARY not in named.stdout + named.stderr
    assert "***" in (home.folder / "named" / "evaluate.ipynb").read_text()
    for path in home.folder.rglob("*"):
        inside = "environments" not in path.parts
        if inside and path.is_file() and not path.is_symlink() and path.stat().st_size < 50_000_000:
            assert CANARY.encode() not in path.read_bytes(), path


def test_a_stage_in_an_empty_workspace_makes_the_demos_model_first(home, tmp_path):
    done = home.call("evaluate", "--out", str(tmp_path / "out"), MLWORKBENCH_WORKSPACE=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    assert "making the demo's" in done.stderr
    again = home.call("evaluate", "--model", "latest:none", MLWORKBENCH_WORKSPACE=str(tmp_path / "none"))
    assert again.returncode == 2 and "making the demo's" not in again.stderr
