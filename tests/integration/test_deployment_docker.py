"""Deployments as containers: locked down, in bounds, behind a proxy that alone has a port, and nothing of them left behind."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import engine_parts
import httpx
import pandas as pd
import pytest
from handmade_bundle import census, fitted_pipeline, json_rows
from traffic import traffic

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.verify import bundle_sha256
from mlworkbench.containers.compose import service_user
from mlworkbench.containers.engine import Engine
from mlworkbench.core.errors import GateFailed, InputError, MissingPart
from mlworkbench.core.jobs import Job
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment.deploy import Deployment, deploy, stop_deployment
from mlworkbench.deployment.docker import STEPS
from mlworkbench.deployment.keys import add_key, keys_file, own_key, revoke_key
from mlworkbench.deployment.plan import plan_deployment
from mlworkbench.deployment.proxy import Proxy, places, read_live
from mlworkbench.deployment.trace import trace
from mlworkbench.deployment.yard import Yard
from mlworkbench.serving.log import read_records

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["age", "education", "sex"]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_parts.docker()


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def bundle(engine, tmp_path_factory, rows) -> Iterator[str]:
    """A bundle, in a workspace of this module's own; at the end the engine has nothing of its deployments or its image."""
    folder = tmp_path_factory.mktemp("docker").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        for name, value in engine_parts.SETTINGS.items():
            patch.setenv(name, value)
        made = build_bundle(fitted_pipeline(rows, census(600)[1]), name="people", examples=rows, environment="current",
                            golden_rows=16).path
        yield str(made)
        left = engine_parts.of_workspace(engine, folder / "workspace")
        for artifact in workspace().ledger.artifacts("deployment"):
            stop_deployment(artifact.name)
        engine_parts.remove_images([bundle_sha256(Path(made))])
        assert left == []


@pytest.fixture
def up(bundle) -> Iterator[Callable[..., Deployment]]:
    """Deploy the bundle; every name that was deployed is stopped at the end."""
    names = []

    def start(name: str, **options: object) -> Deployment:
        names.append(name)
        return deploy(bundle, name=name, target="docker", **options)

    yield start
    for name in {n for n in names if workspace().ledger.get("deployment", n)}:
        stop_deployment(name)


PEOPLE = {"name": "people_1.x", "target": "docker", "cpu": 0.9, "memory_mb": 600, "workers": 2}


@pytest.fixture(scope="module")
def people(bundle) -> Iterator[Deployment]:
    """One deployment that several tests look at."""
    yield deploy(bundle, **PEOPLE)
    stop_deployment(PEOPLE["name"])


def yard_of(engine: Engine, served: Deployment) -> Yard:
    return Yard(engine, Path(served.details["folder"]))


def inspected(engine: Engine, name: str) -> dict:
    return json.loads(engine.run("container", "inspect", name).output)[0]


def until(condition: Callable[[], object], seconds: float = 60.0) -> object:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def answer(served: Deployment, route: str, key: str = "", **options) -> httpx.Response:
    headers = {"X-Api-Key": key or own_key(Path(served.details["folder"])), **options.pop("headers", {})}
    method = options.pop("method", "GET")
    return httpx.request(method, served.url + route, headers=headers, trust_env=False, timeout=30, **options)


def announced(served: Deployment, key: str, size: int) -> tuple[int, str]:
    """What is answered to the head of a request whose body would have that size."""
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/predict")
    for name, value in (("content-type", "application/json"), ("content-length", str(size)), ("x-api-key", key)):
        connection.putheader(name, value)
    connection.endheaders()
    told = connection.getresponse()
    found = told.status, json.loads(told.read())["errors"][0]["problem"]
    connection.close()
    return found


def test_a_service_is_locked_down_in_bounds_and_reached_through_the_proxy_alone(people, engine, rows):
    served, yard = people, yard_of(engine, people)
    (service,), (proxy,) = yard.services(), yard.proxies()
    told = inspected(engine, service.id)
    host = told["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (9 * 10**8, 600 * 2**20, 600 * 2**20, 512)
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped" and host["LogConfig"]["Config"]["max-size"] == "10m"
    assert told["Config"]["User"] == "{}:{}".format(*service_user())
    assert not any(told["NetworkSettings"]["Ports"].values()) and list(told["NetworkSettings"]["Networks"]) == [yard.stem]
    ports = inspected(engine, proxy.id)["NetworkSettings"]["Ports"]
    assert {p["HostIp"] for open_ in ports.values() for p in open_} == {"127.0.0.1"}
    proof = f"http://127.0.0.1:{ports['8081/tcp'][0]['HostPort']}"
    assert httpx.get(f"{proof}/readyz", trust_env=False).status_code == 403
    status = served.status()
    assert (status["state"], status["containers"], status["restarts"], status["out_of_memory"]) == ("running", 1, 0, False)
    assert 10 < status["memory_mb"] < 600 and status["image"] == told["Image"] == served.details["made"]["image"]
    answers = served.predict(rows.head(3))
    assert answers["prediction"].isin(["no", "yes"]).all() and "initialized" in served.logs(50)
    trail = {station.kind: station for station in trace(answers["prediction_id"][0]).stations}
    assert trail["image"].facts["id"] == status["image"] and [file.state for file in trail["image"].files] == ["as recorded"]


def test_what_the_service_says_comes_through_unchanged_and_its_log_is_the_person_s(people, bundle, engine, rows):
    served = deploy(bundle, **PEOPLE)  # as it runs: only proved again
    assert served.details["revision"] == people.details["revision"]
    yard, key = yard_of(engine, served), own_key(Path(served.details["folder"]))
    place = inspected(engine, yard.services()[0].id)["NetworkSettings"]["Networks"][yard.stem]["IPAddress"]
    asked = {"headers": {"X-Api-Key": key, "X-Request-Id": "mine-1"}, "trust_env": False}
    for route in ("/model", "/signature", "/nothing", "/predict"):
        direct, through = (httpx.get(base + route, **asked) for base in (f"http://{place}:3000", served.url))
        assert (through.status_code, through.content) == (direct.status_code, direct.content)
        assert set(through.headers) == set(direct.headers) and through.headers["x-request-id"] == "mine-1"
    assert announced(served, key, 17 * 2**20) == (413, "the body must be at most 16777216 bytes. Send fewer rows a request")
    answers = served.predict(rows.head(20))
    assert served.feedback(dict.fromkeys(answers["prediction_id"], "yes")) == {"accepted": 20, "unknown": []}
    logged = {r["prediction_id"]: r for r in read_records(served.log_folder, "predictions")}
    assert set(answers["prediction_id"]) <= set(logged)
    assert {r["deployment"] for r in logged.values()} == {"people_1.x"}
    assert {path.stat().st_uid for path in served.log_folder.iterdir()} == {service_user()[0]}
    assert served.forget(answers["prediction_id"].head(1)) == []


def test_a_key_is_good_and_no_good_within_a_second_and_the_container_sees_no_other_file(people, engine):
    served = people
    folder = Path(served.details["folder"])
    key = add_key(folder, label="the shop")
    began = time.monotonic()
    assert until(lambda: answer(served, "/signature", key).status_code == 200, 3) and time.monotonic() - began < 2
    revoke_key(folder, key.split("_")[1])
    began = time.monotonic()
    assert until(lambda: answer(served, "/signature", key).status_code == 401, 3) and time.monotonic() - began < 2
    look = "import os; print(sorted(os.listdir('/run/keys')), os.access('/run/keys', os.W_OK), os.access('/log', os.W_OK))"
    told = engine.run("exec", yard_of(engine, served).services()[0].id, "python", "-c", look).output
    assert told.strip() == "['keys.json'] False True"
    assert keys_file(folder).stat().st_mode & 0o777 == 0o600


def test_a_container_that_ends_and_a_proxy_that_starts_anew_come_back_as_they_were(people, bundle, engine, rows):
    served, yard = people, yard_of(engine, people)
    os.kill(yard.services()[0].state["Pid"], signal.SIGKILL)
    assert until(lambda: yard.services()[0].restarts == 1, 20)
    assert until(lambda: served.status()["state"] == "running", 60) and served.status()["restarts"] == 1
    engine.run("restart", "--time", "1", yard.proxies()[0].id)
    assert until(lambda: served.status()["state"] == "running", 30) and len(served.predict(rows.head(2))) == 2
    assert answer(served, "/readyz").status_code == 200
    engine.run("stop", "--time", "1", yard.services()[0].id)  # by hand
    gone = answer(served, "/predict", method="POST", json={"rows": json_rows(rows.head(1))})
    assert gone.status_code == 503 and gone.json()["errors"][0]["problem"] == "no service is ready behind the proxy"
    assert served.status()["state"] == "stopped" and gone.headers["retry-after"] == "1"
    assert plan_deployment(bundle, **PEOPLE).plan.action == "update"
    again = deploy(bundle, **PEOPLE)
    assert again.url == served.url and again.status()["state"] == "running" and len(yard.services()) == 1


def test_one_that_runs_out_of_memory_is_told_so_and_what_ran_before_runs_on(up, engine, rows):
    served = up("memory", memory_mb=600)
    before = engine_parts.of_workspace(engine, workspace().root, "memory")
    with pytest.raises(GateFailed, match="out of memory"):
        up("memory", memory_mb=64)
    assert engine_parts.of_workspace(engine, workspace().root, "memory") == before
    assert len(served.predict(rows.head(2))) == 2 and served.status()["state"] == "running"


def test_one_that_is_cancelled_after_it_took_over_gives_the_requests_back(up, bundle, engine, rows):
    served = up("back")
    yard, before = yard_of(engine, served), engine_parts.of_workspace(engine, workspace().root, "back")
    serving, read = yard.services(), read_live(yard.folder / "proxy")
    job = Job(deploy, bundle=bundle, name="back", target="docker", workers=2).start()
    assert until(lambda: STEPS[5] in job.text or job.state != "running", 120) and job.state == "running", job.error
    job.cancel()
    assert job.wait(60) and job.state == "cancelled"
    assert engine_parts.of_workspace(engine, workspace().root, "back") == before and read_live(yard.folder / "proxy") == read
    assert [p.id for p in yard.services()] == [p.id for p in serving] and len(served.predict(rows.head(2))) == 2
    up_now = {place for place, (state, _) in Proxy(engine, yard.proxies()[0].id).places().items() if state.startswith("UP")}
    assert up_now == {p.place for p in serving}


def certificate(folder: Path, openssl: str, name: str) -> tuple[str, str]:
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run([openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", crt], check=True,
                   capture_output=True)
    return str(crt), str(key)


def test_replicas_and_a_new_certificate_take_over_under_load_and_no_request_fails(
    up, engine, rows, tmp_path, need, monkeypatch, measured
):
    wrk, openssl = need("wrk", "Install it: apt-get install wrk"), need("openssl", "Install openssl.")
    one, two = certificate(tmp_path, openssl, "one"), certificate(tmp_path, openssl, "two")
    for files in (one, two):
        monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_CERTIFICATE", files[0])
        monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_TLS_KEY", files[1])
        if files == one:
            served = up("secured")
            assert served.url.startswith("https://") and len(served.predict(rows.head(2))) == 2
            continue
        with traffic(wrk, served.url, json_rows(rows.head(2)), own_key(Path(served.details["folder"])), tmp_path, 8) as heard:
            after = up("secured", replicas=2)
    assert heard.failed == 0 and heard.requests > 50, heard.told
    yard = yard_of(engine, after)
    assert [p.place for p in yard.services()] == places(read_live(yard.folder / "proxy")[0], 2)
    assert len(after.predict(rows.head(2))) == 2  # by the new certificate alone
    found = {place: state for place, (state, _) in Proxy(engine, yard.proxies()[0].id).places().items() if state.startswith("UP")}
    assert sorted(found) == [p.place for p in yard.services()]
    writers = {path.name for path in after.log_folder.glob("predictions-*")}
    assert len(writers) >= 3  # each container writes segments of its own
    measured(requests=heard.requests, failed=heard.failed)


def test_another_port_is_moved_to_and_one_in_use_is_refused_with_nothing_made(up, engine, rows):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="must be free"):
            up("port", port=taken.getsockname()[1])
        number = taken.getsockname()[1]
    assert engine_parts.of_workspace(engine, workspace().root, "port") == []
    served = up("port")
    moved = up("port", port=number)
    assert moved.url.endswith(f":{number}") and len(moved.predict(rows.head(2))) == 2
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url + "/readyz", trust_env=False)
    assert len(engine_parts.of_workspace(engine, workspace().root, "port")) == 3


def test_two_workspaces_share_a_name(up, engine, bundle, rows, tmp_path, monkeypatch):
    served, root = up("shared"), workspace().root
    with monkeypatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(tmp_path / "other"))
        other = deploy(bundle, name="shared", target="docker")
        try:
            assert other.url != served.url and len(other.predict(rows.head(2))) == 2
        finally:
            stop_deployment("shared")
        assert engine_parts.of_workspace(engine, tmp_path / "other") == []
    assert len(engine_parts.of_workspace(engine, root, "shared")) == 3 and len(served.predict(rows.head(2))) == 2


ENDED = (
    "import sys\n"
    "from mlworkbench.core.jobs import listening\n"
    "from mlworkbench.deployment.deploy import deploy\n"
    "with listening(lambda words, _: print(words, flush=True)):\n"
    "    deploy(sys.argv[1], name='interrupted', target='docker')\n"
)


def test_ctrl_c_in_the_middle_leaves_nothing(bundle, engine):
    process = subprocess.Popen([sys.executable, "-c", ENDED, bundle], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    for line in process.stdout:
        if line.startswith("wait until they are ready"):
            os.killpg(process.pid, signal.SIGINT)
            break
    _, told = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in told and process.returncode != 0
    assert engine_parts.of_workspace(engine, workspace().root, "interrupted") == []
    assert workspace().ledger.get("deployment", "interrupted") is None
    assert not (workspace().deployments / "interrupted" / "proxy").exists()


def test_without_an_engine_or_the_proxy_s_image_it_is_said_what_to_do(up, engine, bundle, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
        with pytest.raises(MissingPart, match="apt-get install docker.io") as missing:
            up("nowhere")
        assert missing.value.exit_code == 3
        plan = plan_deployment(bundle, name="nowhere", target="docker")
        assert plan.plan.action == "create" and "docker" in plan.reasons[0]
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_PROXY_IMAGE", "127.0.0.1:9/haproxy:1")
    with pytest.raises(MissingPart, match=r"containers\.proxy_image") as missing:
        up("nowhere")
    assert missing.value.exit_code == 3 and engine_parts.of_workspace(engine, workspace().root, "nowhere") == []


@pytest.mark.parametrize(("options", "told"), [
    ({"cpu": 1e4}, "cores of this machine"), ({"memory_mb": 10**9}, "memory_mb must be"), ({"memory_mb": 1}, "memory_mb must be"),
    ({"replicas": 17}, "at most 16 replicas"),
])
def test_limits_that_the_machine_cannot_give_are_refused_before_anything_is_made(up, engine, options, told):
    with pytest.raises(InputError, match=told):
        up("limits", **options)
    assert engine_parts.of_workspace(engine, workspace().root, "limits") == []
