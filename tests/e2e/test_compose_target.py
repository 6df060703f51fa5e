"""A whole stack under a real engine: brought up, updated and turned back under load, killed half-way, and gone at the end."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from handmade_bundle import census, fitted_pipeline
from load import Heard, call, request

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.parity import pinned
from mlworkbench.containers.engine import find_engine
from mlworkbench.core.errors import GateFailed, InputError, MissingPart
from mlworkbench.deployment import compose, stacks
from mlworkbench.deployment.deploy import deploy, find_deployment, stop_deployment
from mlworkbench.deployment.keys import add_key, own_key, revoke_key
from mlworkbench.deployment.plan import plan_deployment
from mlworkbench.deployment.stacks import Live, Project
from mlworkbench.deployment.steps import Steps
from mlworkbench.serving.log import read_records

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["age", "education", "sex"]
PARTS = {"PROXY": "mlw-part-haproxy:1", "PROMETHEUS": "mlw-part-prometheus:1", "ALERTMANAGER": "mlw-part-alertmanager:1",
         "GRAFANA": ""}
NAME = "stack"


@pytest.fixture(scope="module")
def engine(need):
    """A running engine with images of the parts, made from Debian packages; Grafana's server cannot be had that way."""
    need("docker-compose", "On Debian: apt-get install docker-compose")
    try:
        found = find_engine()
        made = subprocess.run(["sh", ROOT / "tests" / "part_images.sh"], capture_output=True, text=True,
                              env={**os.environ, "DOCKER": found.program})
        problem = made.stderr.strip() if made.returncode else ""
    except MissingPart as missing:
        problem = str(missing)
    if problem:
        (pytest.fail if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip)(problem)
    return found


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


def under_load(deployment, work: Callable[[], object]) -> Heard:
    """What callers heard while the work was done: four of them, who keep their connections, and ask 100 times a second."""
    body = json.dumps({"rows": [{"age": 30.0, "education": 20.0, "sex": "female"}]}).encode()
    asked = request("/predict", body, {"X-Api-Key": own_key(Path(deployment.details["folder"]))})
    port, heard, stop = deployment.details["made"]["port"], Heard(), threading.Event()

    def ask() -> None:
        while not stop.is_set():
            told = call(port, asked, 1.0, callers=4, rate=100)
            heard.statuses.update(told.statuses)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        work()
    finally:
        stop.set()
        thread.join()
    return heard


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


def test_the_same_again_changes_nothing(bundle, project):
    assert plan_deployment(bundle, name=NAME, target="compose").plan.action == "nothing"
    before = set(project.ids())
    assert up(bundle).details["made"]["revision"] == 1
    assert set(project.ids()) == before


def test_a_key_that_is_made_or_revoked_is_so_within_a_second(project):
    served = find_deployment(NAME)
    folder, url = Path(served.details["folder"]), served.url
    key = add_key(folder, ["predict"])
    ask = lambda: httpx.get(f"{url}/signature", headers={"X-Api-Key": key}, trust_env=False).status_code  # noqa: E731
    until(lambda: ask() == 200, 5)
    revoke_key(folder, key.split("_")[1])
    until(lambda: ask() == 401, 5)


def test_an_update_refuses_no_request(bundle, project, measured):
    served = find_deployment(NAME)
    heard = under_load(served, lambda: up(bundle, workers=2))
    assert set(heard.statuses) == {200} and heard.statuses[200] > 200, heard.statuses
    now = find_deployment(NAME)
    assert now.details["made"]["place"] == "green" and now.details["made"]["revision"] > served.details["made"]["revision"]
    assert set(project.states()) == {"alertmanager", "prometheus", "proxy", "service-green"}
    assert now.url == served.url
    measured(requests=heard.statuses[200], lost=0)


def test_a_service_that_is_not_ready_in_time_leaves_the_former_and_nothing_of_itself(bundle, project):
    before = project.states()
    with pytest.raises(GateFailed, match="ready within 0.2 s"):
        up(bundle, timeout_s=0.2)
    assert {k: v["id"] for k, v in project.states().items()} == {k: v["id"] for k, v in before.items()}
    assert find_deployment(NAME).status()["state"] == "running"


def killed_at(step: str, work: Callable[[], object]) -> None:
    """Do the work in a process of its own, which is killed as it comes to a step."""
    child = os.fork()
    if not child:
        taken = Steps.__call__
        Steps.__call__ = lambda self, words: (taken(self, words), words == step and os.kill(os.getpid(), signal.SIGKILL))[0]
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(("step", "workers"), [(compose.STEPS[2], 1), (compose.STEPS[4], 2)], ids=["unproved", "proved"])
def test_killed_half_way_the_next_one_ends_well_and_callers_notice_nothing(bundle, project, step, workers):
    served = find_deployment(NAME)

    def both() -> None:
        killed_at(step, lambda: up(bundle, workers=workers))
        assert len([name for name in project.states() if name.startswith("service")]) == 2
        up(bundle, workers=workers)

    heard = under_load(served, both)
    assert set(heard.statuses) == {200}, heard.statuses
    assert len([name for name in project.states() if name.startswith("service")]) == 1
    now = find_deployment(NAME)
    assert now.details["workers"] == workers and now.status()["state"] == "running"


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
    plan = plan_deployment(bundle, name=NAME, target="compose", workers=2).plan
    assert plan.action == "update"
    assert {change.what for change in plan.changes} == {"TLS", "README.md", "proxy/haproxy.cfg", "prometheus/rules.yml",
                                                        "compose.yaml"}
    assert "+    acl too_many sc_http_req_rate(0) gt 20" in plan.notes[0]
    service = project.states()[Live.read(project).slot.service]["id"]
    now = up(bundle, workers=2)
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
