"""Manifests: valid for three versions of Kubernetes, by a policy checker, and as Kustomize itself puts them together."""

import base64
import copy
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import kubernetes_validate
import kubernetes_validate.utils as published
import pytest
import yaml

from mlworkbench.core.errors import InputError, WorkbenchError
from mlworkbench.deployment.cluster import CUSTOM, KINDS
from mlworkbench.deployment.manifests import (
    Wanted,
    assemble,
    dns_name,
    read_manifests,
    render_manifests,
    write_manifests,
)

VERSIONS = sorted({published.major_minor(v) for v in published.all_versions()}, key=lambda v: int(v.split(".")[1]))[-3:]
SMALL = Wanted(deployment="churn", image="registry.test/churn@sha256:" + "ab" * 32, secrets={"keys.json": "{}", "probe": "t"})
FULL = replace(
    SMALL, deployment="churn_eu", namespace="models", model="churn", version="1f2e", replicas=2, max_replicas=6, cpu_percent=60,
    cpu=1.5, memory_mb=512, workers=2, url="https://churn.test", certificate="c", certificate_key="k", pull_secret="registry",
    log_class="shared", metrics=True, monitor_image="registry.test/mlworkbench@sha256:" + "cd" * 32,
    secrets={"keys.json": "{}", "probe": "t", "metrics-key": "k"}, marks={"org.mlworkbench.bundle.sha256": "ab" * 32},
)
ROUTED = replace(FULL, gateway="infra/public", certificate="", certificate_key="")
ALL = [pytest.param(one, id=name) for name, one in (("small", SMALL), ("full", FULL), ("routed", ROUTED))]
FOLDERS = ("overlays/production", "overlays/dev", "kserve")
# not asked of these manifests, and why
ALLOWED = {"CKV_K8S_35": "the service reads the token of the proof from its environment, once, and passes it on to nobody"}


def kinds(objects: list[dict]) -> dict[str, dict]:
    return {one["kind"]: one for one in objects}


@pytest.fixture(autouse=True, scope="module")
def read_once() -> Iterator[None]:
    """The published schemas are 5 MB a version, and are else read for each object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "schema_contents", functools.cache(published.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("wanted", ALL[:2])
def test_every_object_is_valid_by_the_published_schema_strictly(wanted, version):
    checked = set()
    for folder in FOLDERS:
        for one in assemble(render_manifests(wanted), folder):
            if one["kind"] not in (*CUSTOM, "InferenceService"):
                assert kubernetes_validate.validate(one, version, strict=True) == version
                checked.add(one["kind"])
    assert {"Deployment", "Service", "Secret", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"} <= checked
    if wanted is FULL:
        assert checked == set(KINDS) - set(CUSTOM)


def test_the_validation_refuses_a_field_that_is_none():
    one = kinds(assemble(render_manifests(SMALL)))["Deployment"]
    one["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFileSystem"):
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("wanted", ALL)
def test_what_is_assembled_is_what_kustomize_assembles(wanted, folder, tmp_path):
    program = shutil.which("kubectl")
    if program is None:  # no package of Debian, PyPI or npm that its makers publish has one that knows components
        pytest.skip("kubectl 1.21 or newer is not on PATH")
    write_manifests(tmp_path, render_manifests(wanted))
    told = subprocess.run([program, "kustomize", tmp_path / folder], capture_output=True, text=True, check=True, timeout=60)
    theirs = [one for one in yaml.safe_load_all(told.stdout) if one]

    def order(one: dict) -> str:
        return json.dumps(one, sort_keys=True)

    assert sorted(theirs, key=order) == sorted(assemble(render_manifests(wanted), folder), key=order)


def test_every_file_is_named_by_a_kustomization_and_every_name_is_a_file(tmp_path):
    for wanted in (SMALL, FULL, ROUTED):
        files = render_manifests(wanted)
        told = {name: yaml.safe_load(text) for name, text in files.items() if name.endswith("kustomization.yaml")}
        named = {str(Path(os.path.normpath(Path(name).parent / one))) for name, content in told.items()
                 for one in [*content.get("resources", []), *content.get("components", [])]}
        folders = {str(Path(name).parent) for name in told}
        assert named <= set(files) | folders and set(files) - set(told) <= named
        assert folders - named == set(FOLDERS)
        assert read_manifests(write_manifests(tmp_path / str(id(wanted)), files)) == files


@pytest.fixture(scope="session")
def checkov() -> Path:
    """The policy checker, in an environment of its own below ours: its pins would rule ours."""
    home = Path(sys.prefix) / "checkov"
    if not (home / "bin" / "checkov").exists():
        uv, made = Path(sys.executable).with_name("uv"), home.with_name(f"checkov-{os.getpid()}")
        subprocess.run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, made], check=True, timeout=120)
        command = [uv, "pip", "install", "--quiet", "--python", made / "bin" / "python", "checkov>=3.2"]
        subprocess.run(command, check=True, timeout=300)
        shutil.rmtree(home, ignore_errors=True)
        made.rename(home)
    return home / "bin" / "checkov"


def test_the_policy_checker_finds_nothing_but_what_is_meant_so(checkov, tmp_path):
    good, path = assemble(render_manifests(FULL)), tmp_path / "objects.yaml"
    spoilt = copy.deepcopy(kinds(good)["Deployment"])
    spoilt["metadata"]["name"] = "spoilt"
    del spoilt["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    path.write_text(yaml.safe_dump_all([*good, spoilt]), encoding="utf-8")
    command = [checkov, "--file", path, "--framework", "kubernetes", "--output", "json", "--skip-download", "--quiet"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "LOG_LEVEL": "ERROR"})
    assert told.stdout.strip().startswith("{"), told.stderr[-2000:]
    found = json.loads(told.stdout)
    failed = {(one["resource"].rsplit(".", 1)[-1], one["check_id"]) for one in found["results"]["failed_checks"]}
    assert found["summary"]["passed"] > 150 and {rule for name, rule in failed if name != "spoilt"} == set(ALLOWED)
    assert {("spoilt", "CKV_K8S_22"), ("spoilt", "CKV_K8S_20")} <= failed, "it does look"


def test_a_pod_is_locked_down_and_drains_before_it_ends():
    pod = kinds(assemble(render_manifests(FULL)))["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "runAsUser": 10001,
        "runAsGroup": 10001, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["automountServiceAccountToken"] is False and pod["imagePullSecrets"] == [{"name": "registry"}]
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "1500m", "memory": "512Mi"}
    drain = int(re.search(r"sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])[1])
    assert drain >= 4 and pod["terminationGracePeriodSeconds"] > drain + FULL.request_s
    assert [container[key]["httpGet"]["path"] for key in ("readinessProbe", "livenessProbe")] == ["/readyz", "/livez"]


def test_keys_are_in_the_secret_and_nowhere_else():
    for wanted in (FULL, ROUTED):
        secret = dict.fromkeys(("keys.json", "probe", "metrics-key"), "canary-" + hashlib.sha256(b"x").hexdigest())
        files = render_manifests(replace(wanted, secrets=secret))
        held = [name for name, text in files.items() if base64.b64encode(secret["probe"].encode()).decode() in text]
        assert sorted(held) == ["base/secret.yaml", "kserve/secret.yaml"]
        assert not [name for name, text in files.items() if secret["probe"] in text]


def test_replicas_are_the_autoscalers_where_there_is_one():
    scaled, fixed = (kinds(assemble(render_manifests(one))) for one in (FULL, replace(FULL, max_replicas=0)))
    assert "replicas" not in scaled["Deployment"]["spec"] and fixed["Deployment"]["spec"]["replicas"] == 2
    scaler = scaled["HorizontalPodAutoscaler"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 6) and "HorizontalPodAutoscaler" not in fixed
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 60
    assert kinds(assemble(render_manifests(FULL), "overlays/dev"))["Deployment"]["spec"]["replicas"] == 1


def test_no_value_can_be_taken_for_yaml():
    evil = 'x"}\n- {a: b} # {{ 1 }} ${HOME} \\ <&*>'
    objects = assemble(render_manifests(replace(FULL, image=evil, log_class=evil, monitor_image=evil, marks={"note": evil})))
    found = kinds(objects)
    assert found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"] == evil
    assert found["PersistentVolumeClaim"]["spec"]["storageClassName"] == evil
    assert all(one["metadata"]["annotations"]["note"] == evil for one in objects)


@pytest.mark.parametrize(("name", "known"), [("churn", "churn"), ("census_employment.v2", "census-employment-v2")])
def test_a_name_of_the_house_becomes_one_of_the_cluster(name, known):
    assert dns_name(name) == known


@pytest.mark.parametrize(("name", "better"), [("2nd", "m-2nd"), ("a" * 51, "a" * 50), ("x; rm -rf", "x-rm-rf"), ("", "model")])
def test_a_name_that_no_cluster_takes_is_refused_with_one_that_would_do(name, better):
    with pytest.raises(InputError, match=f"Try name='{better}'"):
        dns_name(name)


def test_a_file_that_is_missing_or_understood_by_kustomize_alone_is_refused():
    files = render_manifests(FULL)
    without = {name: text for name, text in files.items() if name != "base/service.yaml"}
    with pytest.raises(WorkbenchError, match="base/service.yaml: it must have a kustomization.yaml"):
        assemble(without)
    with pytest.raises(WorkbenchError, match="got namePrefix"):
        assemble(files | {"base/kustomization.yaml": files["base/kustomization.yaml"] + "namePrefix: x-\n"})

