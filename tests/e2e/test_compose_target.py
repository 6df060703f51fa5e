"""A whole stack under a real engine: watched, turned to other settings, gone at the end. (Updates: the contract of targets.)"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_parts
import httpx
import pytest
from handmade_bundle import census, fitted_pipeline

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.parity import pinned
from mlworkbench.core.errors import InputError, MissingPart
from mlworkbench.deployment import stacks
from mlworkbench.deployment.deploy import deploy, find_deployment, stop_deployment
from mlworkbench.deployment.keys import add_key, revoke_key
from mlworkbench.deployment.plan import plan_deployment
from mlworkbench.deployment.stacks import Live, Project
from mlworkbench.serving.log import read_records

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["age", "education", "sex"]
PARTS = {"PROXY": "mlw-proxy:debian", "PROMETHEUS": "mlw-part-prometheus:1", "ALERTMANAGER": "mlw-part-alertmanager:1",
         "GRAFANA": ""}
NAME = "stack"


@pytest.fixture(scope="module")
def engine(need):
    """A running engine with images of the parts, made from Debian packages; Grafana's server cannot be had that way."""
    need("docker-compose", "On Debian: apt-get install docker-compose")
    return engine_parts.engine_with("docker", "proxy_image.sh", "part_images.sh")


@pytest.fixture(scope="module")
def home(tmp_path_factory, engine) -> Iterator[Path]:
    """A workspace of this module; a container, network or volume that is left at its end is a fault."""
    folder = tmp_path_factory.mktemp("stack")
    project = Project(folder / "workspace" / "deployments" / NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.setenv("MLWORKBENCH_CONTAINERS_BASE_IMAGE", "mlw-base:py311")
        patch.setenv("MLWORKBENCH_CONTAINERS_RATE_LIMIT", "0")
        for part, image in PARTS.items():
            patch.setenv(f"MLWORKBENCH_CONTAINERS_{part}_IMAGE", image)
        yield folder
        left = {kind: project.ids(kind) for kind in ("container", "network", "volume")}
        project.remove_all()
        for image in engine.clean("image", "ls", "--quiet", "--filter", "label=org.opencontainers.image.title=stacked").split():
            engine.clean("rmi", "--force", image)
        assert not any(left.values()), left


@pytest.fixture(scope="module")
def rows():
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def bundle(home, rows) -> str:
    model = fitted_pipeline(rows, census(600)[1])
    return build_bundle(model, name="stacked", examples=rows, environment="current", golden_rows=16).path


@pytest.fixture(scope="module")
def project(home) -> Project:
    return Project(home / "workspace" / "deployments" / NAME)


def up(bundle: str, **options):
    return deploy(bundle, name=NAME, target="compose", **options)


def until(holds: Callable[[], object], timeout_s: float = 60.0) -> object:
    end = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, f"waited {timeout_s} s in vain"
        time.sleep(0.2)
    return found


def test_a_stack_comes_up_locked_down_answers_by_its_proxy_and_is_watched(bundle, rows, project, engine):
    served = up(bundle)
    told = served.status()
    assert told["state"] == "running" and served.details["made"]["revision"] == 1
    assert told["containers"] == dict.fromkeys(("alertmanager", "prometheus", "proxy", "service-blue"), "running")
    answers = served.predict(rows.head(50))
    assert len(answers) == 50 and answers["prediction_id"].is_unique
    assert served.feedback({answers["prediction_id"].iloc[0]: "yes"})["accepted"] == 1
    logged = [record for record in read_records(served.log_folder) if record.get("deployment") == NAME]
    assert len(logged) >= 50 and "initialized" in served.logs(100)
    for container in project.ids():
        facts = json.loads(engine.run("inspect", container).output)[0]
        host, user = facts["HostConfig"], facts["Config"]["User"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges:true"]
        assert host["PidsLimit"] == 256 and user.split(":")[0] not in ("", "0", "root"), facts["Name"]
    at = engine.run("port", project.ids(service="prometheus")[0], "9090/tcp").output.strip()

    def asked(path: str, **query: str):
        return httpx.get(f"http://{at}/api/v1/{path}", params=query, trust_env=False).json()["data"]

    until(lambda: {s["metric"]["job"] for s in asked("query", query="up == 1")["result"]} == {"service", "proxy"})
    assert [alarm["url"] for alarm in asked("alertmanagers")["activeAlertmanagers"]] == ["http://alertmanager:9093/api/v2/alerts"]


def test_a_key_that_is_made_or_revoked_is_so_within_a_second(project):
    served = find_deployment(NAME)
    folder, url = Path(served.details["folder"]), served.url
    key = add_key(folder, ["predict"])
    ask = lambda: httpx.get(f"{url}/signature", headers={"X-Api-Key": key}, trust_env=False).status_code  # noqa: E731
    until(lambda: ask() == 200, 5)
    revoke_key(folder, key.split("_")[1])
    until(lambda: ask() == 401, 5)


@pytest.fixture
def certificate(need, tmp_path, monkeypatch) -> Path:
    """TLS, by settings."""
    made = {"certificate": tmp_path / "tls.crt", "key": tmp_path / "tls.key"}
    subprocess.run([need("openssl", "On Debian: apt-get install openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost", "-days", "2", "-out", made["certificate"],
                    "-keyout", made["key"]], check=True, capture_output=True)
    for word, file in made.items():
        monkeypatch.setenv(f"MLWORKBENCH_DEPLOYMENT_TLS_{word.upper()}", str(file))
    return made["certificate"]


def test_settings_are_planned_line_by_line_and_turned_without_a_new_service(bundle, project, certificate, monkeypatch):
    served = find_deployment(NAME)
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_RATE_LIMIT", "20")
    plan = plan_deployment(bundle, name=NAME, target="compose").plan
    assert plan.action == "update"
    assert {change.what for change in plan.changes} == {"TLS", "README.md", "proxy/haproxy.cfg", "prometheus/rules.yml",
                                                        "compose.yaml"}
    assert "+    acl too_many sc_http_req_rate(0) gt 20" in plan.notes[0]
    service = project.states()[Live.read(project).slot.service]["id"]
    now = up(bundle)
    assert project.states()[Live.read(project).slot.service]["id"] == service
    assert now.url == served.url.replace("http://", "https://") and now.client().ready()
    with httpx.Client(verify=pinned(certificate), trust_env=False) as client:
        told = [client.get(f"{now.url}/livez") for _ in range(40)][-1]
    assert told.status_code == 429 and told.json()["errors"][0]["problem"].endswith("more than 20 requests in 10 seconds")


def test_what_cannot_work_is_told_before_anything_is_made(bundle, project, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="replicas must be 1"):
        up(bundle, replicas=2)
    monkeypatch.setattr(stacks, "find_compose", lambda engine: (_ for _ in ()).throw(MissingPart(stacks.HOW)))
    with pytest.raises(MissingPart, match="apt-get install docker-compose") as missing:
        up(bundle)
    assert missing.value.exit_code == 3


def test_stopped_it_leaves_its_log_and_nothing_else(project):
    served = find_deployment(NAME)
    stop_deployment(NAME)
    stop_deployment(NAME)
    assert served.status()["state"] == "stopped" and not served.logs(5)
    assert not project.folder.exists() and list(read_records(served.log_folder))
    assert not any(project.ids(kind) for kind in ("container", "network", "volume"))
