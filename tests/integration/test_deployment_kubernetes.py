"""The target `kubernetes` against a test double of a cluster (tests/kube_server.py), whose pods really serve the bundles."""

import base64
import contextlib
import copy
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from handmade_bundle import census, changed_copy, fitted_pipeline, turned_round
from kube_server import KubeServer, until
from kube_server import Refused as Unavailable

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.parity import ask, free_port
from mlworkbench.bundling.verify import MANIFEST, SOURCE, bundle_sha256
from mlworkbench.containers.engine import find_engine
from mlworkbench.core.errors import GateFailed, InputError, MissingPart, WorkbenchError
from mlworkbench.core.jobs import end_group
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment import kubernetes, targets
from mlworkbench.deployment.deploy import deploy, roll_back, stop_deployment
from mlworkbench.deployment.keys import add_key, revoke_key
from mlworkbench.deployment.manifests import Wanted, assemble, render_manifests
from mlworkbench.deployment.plan import asked, plan_deployment

COLUMNS = ["age", "education", "sex"]
LIVE = ("Deployment", "Service", "Secret", "NetworkPolicy", "ServiceAccount", "PodDisruptionBudget", "Ingress", "Pod",
        "HorizontalPodAutoscaler", "CronJob", "ServiceMonitor", "HTTPRoute")


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return census(600)[0][COLUMNS]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("kubernetes").resolve()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        patch.delenv("MLWORKBENCH_SETTINGS", raising=False)
        yield folder


@pytest.fixture(scope="module")
def bundles(home, rows) -> dict[str, Path]:
    """`good`; `better`, another version of it; `wrong`, whose golden rows are answered otherwise than it says."""
    model = fitted_pipeline(rows, census(600)[1])
    good = Path(build_bundle(model, name="people", examples=rows, environment="current", golden_rows=16).path)
    return {"good": good, "better": changed_copy(good, home / "better", "page.html", lambda text: text + "\n"),
            "wrong": changed_copy(good, home / "wrong", "golden.json", turned_round)}


@pytest.fixture(scope="module")
def double(home, bundles) -> Iterator[KubeServer]:
    """The double with images of the bundles; that of `wrong` holds `good`, which answers otherwise than `wrong` says."""
    images = {bundle_sha256(path): path for name, path in bundles.items() if name != "wrong"}
    images[bundle_sha256(bundles["wrong"])] = bundles["good"]
    with KubeServer(home / "pods", images) as server:
        yield server


@pytest.fixture
def cluster(double, home, monkeypatch) -> Iterator[KubeServer]:
    """The double, reached by a kubeconfig; images are built elsewhere. Whatever is left in it at the end is a fault."""
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(home / "kubeconfig")))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_URL", double.front.replace("127.0.0.1", "localhost"))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_IMAGE", "registry.test/{name}:{version}")
    double.writes.clear()
    yield double
    double.before, double.forbidden, double.custom = lambda method, path, body: body, set(), {"HTTPRoute", "ServiceMonitor"}
    for name in [artifact.name for artifact in workspace().ledger.artifacts("deployment")]:
        stop_deployment(name)
    until(lambda: not left(double))
    assert left(double) == []


def left(double: KubeServer) -> list[str]:
    return [f"{kind} {one['metadata']['name']}" for kind in LIVE for one in double.of(kind)]


def up(bundle: Path, name: str = "people", **options):
    return deploy(bundle, name=name, target="kubernetes", **{"timeout_s": 60, **options})


def pods(double: KubeServer) -> list[str]:
    return [one["metadata"]["name"] for one in double.of("Pod")]


def test_the_whole_life_of_a_deployment_in_a_cluster(cluster, bundles, rows):
    plan = plan_deployment(bundles["good"], name="people", target="kubernetes").plan
    assert plan.action == "create" and {"Deployment people", "Ingress people"} <= {c.what for c in plan.changes}
    assert left(cluster) == [] and not (workspace().deployments / "people" / "keys.json").exists()
    served = up(bundles["good"], replicas=2)
    assert served.details["url"].startswith("http://localhost:") and served.status()["replicas"] == "2 of 2"
    answers = served.predict(rows.head(50))
    assert set(served.feedback(dict.fromkeys(answers["prediction_id"], "yes"))) == {"accepted", "unknown"}
    assert "initialized" in served.logs(50) and not any("proof" in name for name in left(cluster))

    plan, written = plan_deployment(bundles["good"], name="people", target="kubernetes", replicas=2).plan, len(cluster.writes)
    assert plan.action == "nothing" and plan.changes == ()
    assert up(bundles["good"], replicas=2).details["revision"] == 1 and len(cluster.writes) == written

    plan = plan_deployment(bundles["better"], name="people", target="kubernetes", replicas=2).plan
    assert plan.action == "update" and "Deployment people" in {c.what for c in plan.changes}
    before = pods(cluster)
    served = up(bundles["better"], replicas=2)
    assert served.details["revision"] == 2 and not set(before) & set(pods(cluster))
    assert served.predict(rows.head(50))["prediction"].equals(answers["prediction"])

    served = roll_back("people")
    assert served.details["bundle"].endswith(json.loads((bundles["good"] / SOURCE / MANIFEST).read_text())["version"])
    assert served.predict(rows.head(5))["prediction"].equals(answers["prediction"].head(5))
    served.stop()
    assert served.status()["state"] == "stopped"
    served.stop()


def state(double: KubeServer) -> dict:
    """All objects but pods, without what the cluster keeps of each."""
    found = [one for kind in LIVE if kind != "Pod" for one in double.of(kind)]
    return {f"{one['kind']}/{one['metadata']['name']}": copy.deepcopy(one.get("spec", one.get("data"))) for one in found}


@pytest.mark.parametrize(("bundle", "images", "told"), [
    ("wrong", {}, "the notebook's own predictions"),  # the image is another's
    ("wrong", {"wrong": "wrong"}, "find nothing wrong|pods up, got"),  # it refuses to serve, by itself
    ("better", {"better": None}, "ImagePullBackOff"),
])
def test_what_is_not_proved_never_takes_over(cluster, bundles, rows, monkeypatch, bundle, images, told):
    mine = {bundle_sha256(bundles[name]): bundles[to] for name, to in images.items() if to}
    gone = [bundle_sha256(bundles[name]) for name, to in images.items() if to is None]
    monkeypatch.setattr(cluster, "images", {k: v for k, v in (cluster.images | mine).items() if k not in gone})
    history = list((workspace().deployments / "people" / "kubernetes").glob("*"))
    with pytest.raises(GateFailed, match=told):
        up(bundles[bundle])
    assert until(lambda: not left(cluster)) and history == list((workspace().deployments / "people" / "kubernetes").glob("*"))
    served = up(bundles["good"])
    before, names = state(cluster), pods(cluster)
    with pytest.raises(GateFailed, match=told):
        up(bundles[bundle])
    assert until(lambda: pods(cluster) == names) and state(cluster) == before
    assert served.status()["state"] == "running" and len(served.predict(rows.head(3))) == 3


def test_what_fails_after_the_change_is_taken_back_with_the_keys_of_today(cluster, bundles, rows):
    served = up(bundles["good"])
    before = state(cluster)
    add_key(workspace().deployments / "people", ["predict"], label="new")

    def fail(method: str, path: str, body: bytes) -> bytes:
        if path.endswith("services/people:http/proxy/predict"):
            raise Unavailable(503, "ServiceUnavailable", "no endpoints available")
        return body

    cluster.before = fail
    with pytest.raises(GateFailed, match="every golden row with 200, got 503"):
        up(bundles["better"], replicas=2)
    cluster.before = lambda method, path, body: body
    after = state(cluster)
    assert after.pop("Secret/people") != before.pop("Secret/people") and after == before
    assert until(lambda: len(pods(cluster)) == 1) and len(served.predict(rows.head(3))) == 3
    assert plan_deployment(bundles["good"], name="people", target="kubernetes").plan.changes[0].what == "keys"


def apply_until(step: int, request: targets.Request, made: dict) -> None:
    """Apply, and end this process at that step; with 0 when there is none."""
    calls, target = iter(range(1, 100)), kubernetes.KubernetesTarget()
    target.apply(target.prepare(request), made, lambda words: next(calls) == step and os._exit(9))
    os._exit(0)


def test_an_apply_that_was_killed_at_any_step_is_finished_by_the_next(cluster, bundles, rows):
    served, now, other, step = up(bundles["good"]), "good", "better", 0
    while True:
        step += 1
        request, child = asked(bundles[other], "people", 60, {}), os.fork()
        if child == 0:  # as kill -9 ends it: nothing is tidied up
            apply_until(step, request, served.details["made"])
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert len(served.predict(rows.head(3))) == 3
        if ended == 0:
            break
        assert ended == 9
        if step % 2:  # the next one asks for the same; otherwise for what ran before
            now, other = other, now
        served = up(bundles[now])
        assert not any("proof" in name for name in left(cluster)) and served.status()["state"] == "running"
        deployed = cluster.of("Deployment")[0]["spec"]["template"]["metadata"]["annotations"]
        assert deployed["org.mlworkbench.bundle.sha256"] == bundle_sha256(bundles[now])
    assert step == 8


def test_parts_come_and_go_with_their_settings_and_drift_is_seen(cluster, bundles, monkeypatch):
    wanted = {"MAX_REPLICAS": "3", "METRICS": "true", "LOG_CLASS": "shared", "MONITOR_IMAGE": "registry.test/mlworkbench:1"}
    with monkeypatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(f"MLWORKBENCH_DEPLOYMENT_KUBERNETES_{name}", value)
        up(bundles["good"])
        kinds = {one.split()[0] for one in left(cluster)}
        assert {"HorizontalPodAutoscaler", "ServiceMonitor", "CronJob", "Ingress"} <= kinds
        with cluster.lock:  # autoscaling makes a second replica: nobody's difference
            cluster.of("Deployment")[0]["spec"]["replicas"] = 2
        assert until(lambda: len(pods(cluster)) == 2)
        assert plan_deployment(bundles["good"], name="people", target="kubernetes").plan.action == "nothing"
        cluster.custom = set()
        with pytest.raises(MissingPart, match="the kind ServiceMonitor, got none of it. Install the Prometheus operator"):
            plan = up(bundles["good"])
        cluster.custom = {"ServiceMonitor"}
    plan = plan_deployment(bundles["good"], name="people", target="kubernetes").plan
    assert {"CronJob people-monitor", "HorizontalPodAutoscaler people"} <= {c.what for c in plan.changes if c.then == "removed"}
    up(bundles["good"])
    assert not {"HorizontalPodAutoscaler", "ServiceMonitor", "CronJob"} & {one.split()[0] for one in left(cluster)}
    with cluster.lock:
        cluster.of("Deployment")[0]["spec"]["replicas"] = 0
    assert until(lambda: not pods(cluster))
    plan = plan_deployment(bundles["good"], name="people", target="kubernetes").plan
    assert plan.action == "update" and "changed: spec.replicas" in [c.then for c in plan.changes]
    assert up(bundles["good"]).status()["replicas"] == "1 of 1"
    stop_deployment("people")
    assert [one["metadata"]["name"] for one in cluster.of("PersistentVolumeClaim")] == ["people-log"], "the log stays"
    cluster.delete("PersistentVolumeClaim", "models", "people-log")


def test_a_deployment_keeps_to_its_namespace_and_off_what_is_not_its_own(cluster, bundles, monkeypatch):
    up(bundles["good"], "people_eu")
    with pytest.raises(InputError, match="must be free, or this deployment's, got people_eu"):
        up(bundles["good"], "people.eu")
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_NAMESPACE", "default")
    with pytest.raises(InputError, match="must stay in its cluster and namespace"):
        up(bundles["better"], "people_eu")
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_NAMESPACE", "nowhere")
    with pytest.raises(InputError, match="namespaces \"nowhere\" not found. Type: kubectl create namespace nowhere"):
        up(bundles["good"], "elsewhere")


def test_no_cluster_no_credentials_and_no_right_are_three_things(cluster, bundles, home, tmp_path, monkeypatch):
    served = up(bundles["good"])
    cluster.forbidden = {("PATCH", "deployments")}
    with pytest.raises(MissingPart, match="the right to PATCH .*cannot patch"):
        up(bundles["better"])
    cluster.forbidden = set()
    cluster.kubeconfig(home / "kubeconfig", token="stolen")
    with pytest.raises(MissingPart, match="accept the kubeconfig's credentials, got Unauthorized"):
        up(bundles["better"])
    cluster.kubeconfig(home / "kubeconfig", server=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(MissingPart, match="a cluster must answer at http://127.0.0.1.*refused"):
        up(bundles["better"])
    assert served.status()["state"] == "unreachable"
    assert any("must answer" in note for note in plan_deployment(bundles["good"], name="people", target="kubernetes").plan.notes)
    (home / "kubeconfig").write_text("contexts: [nonsense")
    with pytest.raises(InputError, match="must be one that can be used"):
        up(bundles["better"])
    with monkeypatch.context() as patch:
        patch.setenv("KUBECONFIG", str(tmp_path / "none"))
        with pytest.raises(MissingPart, match="no file at"):
            up(bundles["better"])
    cluster.kubeconfig(home / "kubeconfig")
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_CONTEXT", "doubel")
    with pytest.raises(InputError, match="Did you mean 'double'"):
        up(bundles["better"])
    monkeypatch.delenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_CONTEXT")
    assert served.status()["state"] == "running"


def test_the_nightly_job_reads_what_the_pods_wrote(cluster, bundles, rows, monkeypatch, tmp_path):
    for name, value in {"LOG_CLASS": "shared", "MONITOR_IMAGE": "registry.test/mlworkbench:1"}.items():
        monkeypatch.setenv(f"MLWORKBENCH_DEPLOYMENT_KUBERNETES_{name}", value)
    served = up(bundles["good"], "watched")
    container = cluster.of("CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    log = cluster.service_of(cluster.of("Pod")[0]).home / "log"
    places = {"MLW_BUNDLE": str(bundles["good"]), "MLW_LOG_DIR": str(log)}
    environ = {one["name"]: one["value"] for one in container["env"]} | places

    def look() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *container["command"][1:]]
        return subprocess.run(command, env={**os.environ, **environ}, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    served.predict(rows.head(300))
    told = look()
    assert told.returncode == 0 and told.stdout.startswith("No alarm"), told.stdout + told.stderr
    served.predict(rows.assign(age=95.0))
    told = look()
    assert told.returncode == 1 and "age" in told.stdout and not told.stderr
    stop_deployment("watched")
    cluster.delete("PersistentVolumeClaim", "models", "watched-log")


@pytest.fixture
def registry(need, tmp_path) -> Iterator[str]:
    """A real registry on loopback."""
    program, port = need("docker-registry", "On Debian: apt-get install docker-registry"), free_port()
    settings = {"version": "0.1", "log": {"level": "error"}, "http": {"addr": f"127.0.0.1:{port}"},
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}}
    (tmp_path / "registry.yml").write_text(json.dumps(settings), encoding="utf-8")
    process = subprocess.Popen([program, "serve", tmp_path / "registry.yml"], start_new_session=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with contextlib.closing(socket.socket()) as probe:
            assert until(lambda: probe.connect_ex(("127.0.0.1", port)) == 0)
        yield f"127.0.0.1:{port}/team"
    finally:
        end_group(process)


def test_an_image_is_pushed_and_named_by_its_digest(registry, need, tmp_path):
    need("docker", "Install Docker")
    engine, name, empty = find_engine(), f"mlw-push-{os.getpid()}:1", tmp_path / "empty.tar"
    tarfile.open(empty, "w").close()
    engine.run("import", empty, name)
    pushed = kubernetes.push_image(engine, name, registry)
    try:
        assert re.fullmatch(rf"{registry}/mlw-push-{os.getpid()}@sha256:[0-9a-f]{{64}}", pushed)
        with pytest.raises(MissingPart, match="the registry .* must take the image, got .*Log in: docker login 127.0.0.1"):
            kubernetes.push_image(engine, name, f"127.0.0.1:{free_port()}/team")
    finally:
        held = engine.run("image", "inspect", "--format", "{{.Id}}", name).output.strip()
        engine.run("rmi", "--force", held)


def test_a_cluster_that_is_busy_is_asked_again_and_one_that_is_broken_is_told(cluster, bundles):
    served, failures = up(bundles["good"]), []

    def stumble(method: str, path: str, body: bytes) -> bytes:
        if method == "GET" and len(failures) < 2:
            failures.append(path)
            raise Unavailable(429, "TooManyRequests", "the server has received too many requests")
        return body

    cluster.before = stumble
    assert served.status()["state"] == "running" and len(failures) == 2

    def broken(method: str, path: str, body: bytes) -> bytes:
        raise Unavailable(500, "InternalError", "etcdserver: leader changed")

    cluster.before = broken
    with pytest.raises(WorkbenchError, match="500: etcdserver: leader changed"):
        served.logs(5)
    cluster.before = lambda method, path, body: body


def test_a_certificate_goes_to_the_ingress_and_a_revoked_key_of_prometheus_is_made_anew(cluster, bundles, home, monkeypatch):
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=models.test"]
    subprocess.run([*command, "-keyout", "k.pem", "-out", "c.pem"], cwd=home, check=True, capture_output=True)
    for name, value in {"TLS_CERTIFICATE": "c.pem", "TLS_KEY": "k.pem"}.items():
        monkeypatch.setenv(f"MLWORKBENCH_DEPLOYMENT_{name}", str(home / value))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_URL", "https://{name}.models.test")
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_METRICS", "true")
    served = up(bundles["good"])
    assert served.details["url"] == "https://people.models.test"
    assert served.details["made"]["certificate"] == str(home / "c.pem")
    held = {one["metadata"]["name"]: one["data"] for one in cluster.of("Secret")}
    assert base64.b64decode(held["people-tls"]["tls.crt"]) == (home / "c.pem").read_bytes()
    assert cluster.of("Ingress")[0]["spec"]["tls"] == [{"hosts": ["people.models.test"], "secretName": "people-tls"}]
    key = base64.b64decode(held["people"]["metrics-key"]).decode()
    revoke_key(workspace().deployments / "people", key.split("_")[1])
    up(bundles["good"])
    renewed = base64.b64decode(cluster.of("Secret")[0]["data"]["metrics-key"]).decode()
    pod = cluster.service_of(cluster.of("Pod")[0])

    def metrics(shown: str) -> int:
        return ask("GET", f"http://127.0.0.1:{pod.port}/metrics", headers={"Authorization": f"Bearer {shown}"})[0]

    assert renewed != key and until(lambda: metrics(renewed) == 200) and until(lambda: metrics(key) == 401)


@pytest.mark.parametrize(("change", "status", "told"), [
    (lambda one: one["spec"].update(replica=2), 422, "replica"),
    (lambda one: one["spec"].update(replicas="two"), 422, "spec.replicas"),
    (lambda one: one["spec"].pop("selector"), 422, "selector"),
    (lambda one: one["metadata"]["labels"].update(long="x" * 64), 422, "a name or label"),
    (lambda one: one["spec"]["selector"]["matchLabels"].update(other="x"), 422, "field is immutable"),
])
def test_the_double_refuses_what_a_cluster_refuses(cluster, change, status, told):
    objects = assemble(render_manifests(Wanted(deployment="other", image="x:1", namespace="models", secrets={"probe": "t"})))
    one = next(o for o in objects if o["kind"] == "Deployment")
    cluster.objects["Deployment", "models", "other"] = copy.deepcopy(one) | {"metadata": {
        **one["metadata"], "uid": "u", "creationTimestamp": "", "generation": 1, "resourceVersion": "1"}}
    try:
        change(one)
        with pytest.raises(Unavailable, match=told) as refused:
            cluster.apply("Deployment", "models", "other", one, dry=True)
        assert refused.value.status == status
    finally:
        del cluster.objects["Deployment", "models", "other"]
