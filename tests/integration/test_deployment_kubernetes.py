"""The target `kubernetes` against a test double of a cluster (tests/kube_server.py), whose pods really serve the bundles."""

import copy
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from handmade_bundle import census, fitted_pipeline
from kube_server import KubeServer, until

from mlworkbench.bundling.build import build_bundle
from mlworkbench.bundling.verify import CERTIFICATE, MANIFEST, SOURCE, bundle_sha256, hash_files, seal
from mlworkbench.core.errors import GateFailed, InputError, MissingPart
from mlworkbench.core.workspace import workspace
from mlworkbench.deployment import kubernetes, targets
from mlworkbench.deployment.deploy import deploy, roll_back, stop_deployment
from mlworkbench.deployment.keys import add_key
from mlworkbench.deployment.plan import asked, plan_deployment
from mlworkbench.serving.integrity import content_sha256

COLUMNS = ["age", "education", "sex"]
LIVE = ("Deployment", "Service", "Secret", "NetworkPolicy", "ServiceAccount", "PodDisruptionBudget", "Ingress", "Pod",
        "HorizontalPodAutoscaler", "CronJob", "ServiceMonitor", "HTTPRoute")


def changed_copy(bundle: Path, folder: Path, name: str, change: Callable[[str], str]) -> Path:
    """A copy of a bundle with one file of its content changed, sealed as if it had been proved so."""
    shutil.copytree(bundle, folder)
    path = folder / SOURCE / name
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    manifest = json.loads((folder / SOURCE / MANIFEST).read_text())
    manifest["files"] = {k: v for k, v in hash_files(folder / SOURCE).items() if k in manifest["files"]}
    digest = content_sha256(manifest)
    (folder / SOURCE / MANIFEST).write_text(json.dumps({**manifest, "content_sha256": digest, "version": digest[:16]}))
    certificate = json.loads((folder / SOURCE / CERTIFICATE).read_text())
    (folder / SOURCE / CERTIFICATE).write_text(json.dumps({**certificate, "sealed": seal(folder)}))
    return folder


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
    flipped = {"yes": "no", "no": "yes"}

    def lie(text: str) -> str:
        golden = json.loads(text)
        return json.dumps(golden | {"predictions": [flipped[p] for p in golden["predictions"]]})

    return {"good": good, "better": changed_copy(good, home / "better", "page.html", lambda text: text + "\n"),
            "wrong": changed_copy(good, home / "wrong", "golden.json", lie)}


@pytest.fixture(scope="module")
def double(home, bundles) -> Iterator[KubeServer]:
    """The double with images of the bundles; that of `wrong` holds `good`, which answers otherwise than `wrong` says."""
    images = {bundle_sha256(path): path for name, path in bundles.items() if name != "wrong"}
    images[bundle_sha256(bundles["wrong"])] = bundles["good"]
    with KubeServer(home / "pods", images) as server:
        yield server


@pytest.fixture
def cluster(double, home, monkeypatch) -> Iterator[KubeServer]:
    """The double, reached by a kubeconfig; images are taken for built. Whatever is left in it at the end is a fault."""
    monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig(home / "kubeconfig")))
    monkeypatch.setenv("MLWORKBENCH_DEPLOYMENT_KUBERNETES_URL", double.front.replace("127.0.0.1", "localhost"))
    monkeypatch.setitem(targets.BUILT_IN, "kubernetes", "mlworkbench.deployment.kubernetes:KubernetesTarget")
    monkeypatch.setattr(kubernetes, "find_engine", lambda name: None)
    monkeypatch.setattr(kubernetes, "_proved_image", lambda request, engine: f"registry.test/{request.tag}")
    double.writes.clear()
    yield double
    double.before, double.forbidden, double.custom = lambda method, path: None, set(), {"HTTPRoute", "ServiceMonitor"}
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
