"""An image is really built, started locked down, and proved; without an engine the plan is shown."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from uuid import uuid4

import engine_parts
import httpx
import psutil
import pytest

import mlworkbench as mlw
from mlworkbench.bundling.environment import find_uv
from mlworkbench.bundling.parity import check_parity, prove, wait_ready
from mlworkbench.bundling.verify import read_part
from mlworkbench.containers import image as image_module
from mlworkbench.containers.engine import ca_file, find_engine, start_container
from mlworkbench.containers.image import plan_image
from mlworkbench.core.errors import GateFailed, InputError, MissingPart
from mlworkbench.core.jobs import Job
from mlworkbench.deployment.keys import add_key

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine():
    """A running engine with the tests' base image."""
    return engine_parts.engine_with("docker", "base_image.sh")


@pytest.fixture
def based(place, engine, monkeypatch):
    """Images start from the tests' base, in a workspace of the test's own."""
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_BASE_IMAGE", "mlw-base:py311")
    return engine


@pytest.fixture(scope="session")
def built_image(engine, built_bundle, tmp_path_factory):
    """An image of the demo's bundle, built while a canary stood in pip's configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(tmp_path_factory.mktemp("image")))
        patch.setenv("MLWORKBENCH_CONTAINERS_BASE_IMAGE", "mlw-base:py311")
        patch.setenv("PIP_TRUSTED_HOST", "canary-word.example")
        made = mlw.containerize(built_bundle, tag=f"mlw-test-{uuid4().hex[:8]}:1")
    yield made
    engine.clean("rmi", "--force", made.tag)


def inspect(engine, name: str) -> dict:
    return json.loads(engine.run("image", "inspect", name).output)[0]


def of_the_bundle(bundle) -> tuple[str, str]:
    """What lists only the images, and their containers, of this bundle: others may work with the engine meanwhile."""
    return "--filter", f"label=org.mlworkbench.bundle.sha256={bundle.sha256}"


def containers(engine, bundle) -> str:
    return engine.run("ps", "--all", "--quiet", *of_the_bundle(bundle)).output.strip()


def test_an_image_runs_locked_down_and_answers_as_the_notebook_did(built_image, measured):
    assert built_image.status == "passed"
    assert built_image.facts == {"user": "10001, not root", "file system": "read-only", "capabilities": "none",
                                 "health check": "healthy", "mlworkbench inside": "no", "bundle": "as labelled"}
    assert (built_image.proof["labels_differ"], built_image.proof["passed"]) == (0, True)
    assert 100 < built_image.size_mb < 200
    measured(size_mb=round(built_image.size_mb), forecast_mb=built_image.summary()["forecast_mb"])
    assert built_image.artifacts()["tag"] == built_image.tag


def test_the_image_can_be_traced_to_its_bundle_model_and_evaluation(built_image, built_bundle, engine):
    labels = inspect(engine, built_image.tag)["Config"]["Labels"]
    assert labels["org.mlworkbench.bundle"] == built_bundle.tag
    assert labels["org.mlworkbench.bundle.sha256"] == built_bundle.sha256
    assert labels["org.mlworkbench.model.sha256"] == built_bundle.manifest["original"]["sha256"]
    assert labels["org.mlworkbench.evaluation.sha256"] == built_bundle.manifest["files"]["evaluation.json"]


def test_the_index_and_the_certificates_of_this_site_are_not_in_the_image(built_image, engine):
    history = engine.run("history", "--no-trunc", "--format", "{{.CreatedBy}}", built_image.tag).output
    told = json.dumps(inspect(engine, built_image.tag)) + history
    assert "canary-word" not in told and "index-url" not in told
    assert "canary-word" not in built_image.sbom + json.dumps(built_image.inventory)
    inside = engine.run("run", "--rm", "--user", "0", built_image.tag, "python", "-c", LOOK).output
    found = json.loads(inside.splitlines()[-1])
    assert found["canary"] == [] and found["programs"] == [] and found["conf"] == []


LOOK = """
import json, os
def files():
    for folder in ("/opt", "/bento", "/etc", "/usr", "/var", "/lib", "/tmp", "/root", "/run"):
        for place, _, names in os.walk(folder):
            yield from (os.path.join(place, name) for name in names)
every = list(files())
holds = lambda path: os.path.isfile(path) and b"canary-word" in open(path, "rb").read()
print(json.dumps({"canary": [p for p in every if holds(p)], "conf": [p for p in every if p.endswith(("pip.conf", "uv.toml"))],
                  "programs": [p for p in every if os.path.basename(p) in ("sh", "bash", "apt", "apt-get", "pip", "uv")]}))
"""


def test_the_sizes_add_up_and_each_package_that_was_cut_says_why(built_image):
    table = next(e.table for e in built_image.evidence() if e.title == "What it weighs").set_index("part")
    assert table["in the image MB"]["all"] == pytest.approx(built_image.size_mb, rel=0.02)
    assert built_image.summary()["forecast_mb"] == pytest.approx(built_image.size_mb, rel=0.1)
    packages = table[table["left out MB"] > 5].drop("all").drop(index=[i for i in table.index if "other packages" in i])
    assert len(packages) >= 3 and (packages["why"] != "").all()
    assert "for programs in C" in next(why for part, why in table["why"].items() if part.startswith("onnxruntime"))


def test_the_bill_of_materials_names_model_packages_and_system_and_no_build_differs_in_it(built_image, built_bundle):
    bom = json.loads(built_image.sbom)
    parts = {component["name"]: component for component in bom["components"]}
    model = next(c for c in bom["components"] if c["type"] == "machine-learning-model")
    assert model["hashes"] == [{"alg": "SHA-256", "content": built_bundle.manifest["original"]["sha256"]}]
    assert set(built_bundle.lock) <= set(parts) and {"cpython", "libc6", "libssl3"} <= set(parts)
    assert all(parts[name]["version"] == version for name, version in built_bundle.lock.items())
    hashed = [name for name in built_bundle.lock if len(parts[name].get("hashes", [{"content": ""}])[0]["content"]) == 64]
    assert len(hashed) == len(built_bundle.lock)
    assert sum("licenses" in parts[name] for name in built_bundle.lock) >= 0.95 * len(built_bundle.lock)
    assert "timestamp" not in built_image.sbom
    assert json.loads(built_image.files()["bom.cdx.json"]) == bom


def test_the_bill_of_materials_keeps_to_its_official_schema(built_image):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(built_image.sbom) is None


def test_an_image_over_budget_fails_and_is_not_left_behind(based, built_image, built_bundle, monkeypatch):
    original = image_module.render_dockerfile
    monkeypatch.setattr(image_module, "render_dockerfile", lambda *a, **o: original(*a, **o) + 'LABEL another="3"\n')
    before = engine_images(based, built_bundle)
    failed = mlw.containerize(built_bundle, tag=built_image.tag, budget=["size_mb <= 400", 'package("numpy") <= 10'])
    assert (failed.status, failed.artifacts()) == ("failed", {})
    assert failed.reasons[0].startswith('package("numpy") <= 10 does not hold')
    with pytest.raises(GateFailed, match="numpy"):
        failed.check()
    assert engine_images(based, built_bundle) == before and containers(based, built_bundle) == ""
    assert inspect(based, built_image.tag)["Id"] == built_image.id
    assert list(failed.evidence()[0].table["holds"]) == [True, False]


def test_the_bundle_in_the_image_is_the_bundle(built_image, built_bundle, engine, tmp_path):
    container = engine.run("create", built_image.tag).output.strip()
    try:
        engine.run("cp", f"{container}:/bento", tmp_path)
    finally:
        engine.clean("rm", container)
    from mlworkbench.bundling.verify import verify_bundle

    assert verify_bundle(tmp_path / "bento", sha256=built_bundle.sha256) == []


def test_an_image_that_answers_otherwise_is_removed_and_the_former_stays(based, built_image, built_bundle, monkeypatch):
    honest = image_module.prove

    def forged(*arguments, **options):
        return {**honest(*arguments, **options), "labels_differ": 1, "passed": False}

    monkeypatch.setattr(image_module, "prove", forged)
    original = image_module.render_dockerfile
    monkeypatch.setattr(image_module, "render_dockerfile", lambda *a, **o: original(*a, **o) + 'LABEL another="1"\n')
    before = engine_images(based, built_bundle)
    with pytest.raises(GateFailed, match="the notebook's own predictions"):
        mlw.containerize(built_bundle, tag=built_image.tag)
    assert containers(based, built_bundle) == ""
    assert engine_images(based, built_bundle) == before
    assert inspect(based, built_image.tag)["Id"] == built_image.id


def engine_images(engine, bundle) -> set[str]:
    return set(engine.run("images", "--no-trunc", "--quiet", *of_the_bundle(bundle)).output.split())


def test_work_of_others_with_the_engine_is_not_counted_and_that_of_the_bundle_is(based, built_image, built_bundle):
    assert built_image.id in engine_images(based, built_bundle)
    assert based.run("image", "inspect", "--format", "{{.Id}}", "mlw-base:py311").output.strip() not in engine_images(
        based, built_bundle)
    name, other = f"mlworkbench-proof-{uuid4().hex[:12]}", f"mlworkbench-proof-{uuid4().hex[:12]}"
    try:
        based.run("create", "--name", other, "mlw-base:py311")
        assert containers(based, built_bundle) == ""
        based.run("create", "--name", name, built_image.tag)
        assert containers(based, built_bundle) != ""
    finally:
        based.clean("rm", name, other)


def test_a_cancelled_proof_leaves_no_container_and_no_image(based, built_bundle, monkeypatch):
    original = image_module.render_dockerfile
    monkeypatch.setattr(image_module, "render_dockerfile", lambda *a, **o: original(*a, **o) + 'LABEL another="2"\n')
    before = engine_images(based, built_bundle)
    job = Job(mlw.containerize, bundle=built_bundle, tag=f"mlw-test-{uuid4().hex[:8]}:1")
    hear, seen = job._hear, threading.Event()

    def listen(text, fraction):
        hear(text, fraction)
        if text.startswith("starting the image"):
            seen.set()

    job._hear = listen
    job.start()
    assert seen.wait(300), job.error
    job.cancel()
    assert job.wait(60)
    assert job.state == "cancelled"
    assert containers(based, built_bundle) == "" and engine_images(based, built_bundle) == before


def test_a_base_image_that_is_not_there_is_refused(based, built_bundle):
    with pytest.raises(MissingPart, match="'127.0.0.1:9/nothing:1' must be there, or its registry within reach"):
        mlw.containerize(built_bundle, base_image="127.0.0.1:9/nothing:1")


def test_a_changed_bundle_is_not_containerized(based, built_bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(built_bundle.path, copy)
    (copy / "src" / "service.py").write_text("print('hello')\n")
    with pytest.raises(GateFailed, match="service.py was changed"):
        mlw.containerize(copy)


@pytest.mark.parametrize("gone", ["program", "daemon"])
def test_without_an_engine_the_plan_is_shown_and_what_is_missing(place, built_bundle, monkeypatch, tmp_path, gone):
    if gone == "program":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif shutil.which("docker") is None:
        pytest.skip("docker is not on PATH: apt-get install docker.io")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(MissingPart, match="apt-get install docker.io") as missing:
        mlw.containerize(built_bundle)
    assert missing.value.exit_code == 3
    plan = plan_image(built_bundle)
    assert (plan.status, plan.reasons) == ("skipped", (str(missing.value),))
    assert "FROM ${BASE}" in plan.evidence()[1].text and plan.artifacts() == {}
    plan.check()
    assert plan.summary() == {"base_image": "python:3.11-slim", "forecast_mb": plan.tiles()["Forecast (MB)"]}
    assert set(plan.evidence()[0].table["known from"]) <= {"its own environment", ""}


def test_an_image_lets_in_who_has_the_key_of_its_environment_or_of_a_mounted_file_and_nobody_else(built_image, engine, tmp_path):
    keys, key = tmp_path / "keys.json", "from-the-container-s-secret"
    shop = add_key(keys, ["predict"], label="shop")
    keys.chmod(0o644)  # the image's own user reads it; it holds hashes alone
    options = ["--volume", f"{keys}:/run/keys.json:ro", "--env", "MLW_KEYS_FILE=/run/keys.json"]
    with start_container(engine, built_image.tag, environment={"MLW_API_KEY": key}, options=options) as container:
        wait_ready(container.url, timeout_s=90, alive=container.alive, output=container.tail)

        def ask(route: str, key: str = "", method: str = "GET") -> int:
            return httpx.request(method, container.url + route, headers={"X-Api-Key": key} if key else {}, trust_env=False,
                                 json={"labels": []} if method == "POST" else None).status_code

        assert ask("/readyz") == 200 and ask("/signature") == 401 and ask("/signature", "another-key-of-that-length") == 401
        assert ask("/signature", key) == ask("/signature", shop) == 200
        assert (ask("/feedback", shop, "POST"), ask("/feedback", key, "POST")) == (403, 400)
        assert key not in container.tail(200) and shop not in container.tail(200)
        told = engine.run("image", "inspect", built_image.tag).output
        assert "MLW_API_KEY" not in told and "MLW_PROBE_TOKEN" not in told


# --- other engines: the same bundle, proved in the same way -------------------------------------------------------------

# a machine without systemd and with limits that cannot be raised, as containers and CI often are
NARROW = {"ENGINE_OPTIONS": "[--runtime, runc]", "BUILD_OPTIONS": "[--isolation, chroot]",
          "RUN_OPTIONS": "[--ulimit, 'nofile=4096:4096', --ulimit, 'nproc=4096:4096']"}


@pytest.fixture
def podman(place, need, monkeypatch):
    """Podman with the tests' base image in its own storage."""
    for name, words in NARROW.items():
        monkeypatch.setenv(f"MLWORKBENCH_CONTAINERS_{name}", words)
    for program in ("podman", "buildah", "runc"):
        need(program, f"Type: apt-get install {program}.")
    made = subprocess.run(["sh", ROOT / "tests" / "base_image.sh"], capture_output=True, text=True,
                          env={**os.environ, "DOCKER": "podman"})
    assert made.returncode == 0, made.stderr
    monkeypatch.setenv("MLWORKBENCH_CONTAINERS_BASE_IMAGE", "localhost/mlw-base:py311")
    return find_engine("podman")


def test_podman_and_buildah_build_the_same_image_and_leave_nothing_behind(podman, built_bundle, built_image):
    tag, known = f"mlw-test-{uuid4().hex[:8]}:1", engine_images(podman, built_bundle)
    try:
        # buildah's build finds the layers that podman's made
        made = {name: mlw.containerize(built_bundle, tag=tag, engine=name) for name in ("podman", "buildah")}
    finally:
        podman.clean("rmi", "--force", tag)
    for name, image in made.items():
        assert image.engine.startswith(name) and image.facts == built_image.facts and image.proof["labels_differ"] == 0
        assert image.size_mb == pytest.approx(built_image.size_mb, rel=0.05)
        assert image.sbom == built_image.sbom
    assert containers(podman, built_bundle) == ""
    for image in engine_images(podman, built_bundle) - known:  # buildah's took the name from podman's
        podman.clean("rmi", "--force", image)


@pytest.mark.parametrize("engine_of", ["docker", "podman"])
def test_a_stopped_build_leaves_no_process_no_image_and_no_folder(request, built_bundle, monkeypatch, tmp_path, engine_of):
    engine = request.getfixturevalue("based" if engine_of == "docker" else "podman")
    mark, original = f"31.{uuid4().int % 10**6}", image_module.render_dockerfile
    halted = f"RUN sleep {mark}\nCOPY bento /bento"
    monkeypatch.setattr(image_module, "render_dockerfile",
                        lambda *a, **o: original(*a, **o).replace("COPY bento /bento", halted))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = engine_images(engine, built_bundle)
    job = Job(mlw.containerize, bundle=built_bundle, tag=f"mlw-test-{uuid4().hex[:8]}:1", engine=engine_of).start()
    wait_until(lambda: running(f"sleep {mark}") or job.state != "running", 240)
    assert job.state == "running", job.error
    job.cancel()
    assert job.wait(60) and job.state == "cancelled" and job.error.exit_code == 130
    wait_until(lambda: not running(f"sleep {mark}"), 20)
    assert list(tmp_path.glob("mlworkbench-*")) == []
    assert engine_images(engine, built_bundle) == before and containers(engine, built_bundle) == ""


def running(command: str) -> bool:
    return any(" ".join(p.info["cmdline"] or ()).endswith(command) for p in psutil.process_iter(["cmdline"]))


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it must come about in time"
        time.sleep(0.2)


def test_a_full_disk_is_told_as_one(podman, built_bundle, monkeypatch, tmp_path):
    small = Path(tempfile.mkdtemp(prefix="mlw-small-", dir="/tmp"))  # podman wants a short name
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=180m", "tmpfs", small], check=True)
    try:
        storage = ["--root", f"{small}/root", "--runroot", f"{small}/run", "--runtime", "runc"]
        monkeypatch.setenv("MLWORKBENCH_CONTAINERS_ENGINE_OPTIONS", json.dumps(storage))
        program = tmp_path / "podman"
        program.write_text(f'#!/bin/sh\nexec podman {" ".join(storage)} "$@"\n')
        program.chmod(0o755)
        subprocess.run(["sh", ROOT / "tests" / "base_image.sh"], env={**os.environ, "DOCKER": str(program)}, check=True)
        with pytest.raises(MissingPart, match="must have room for the image, got no space left. Make room") as told:
            mlw.containerize(built_bundle, tag=f"mlw-test-{uuid4().hex[:8]}:1", engine="podman")
        assert told.value.exit_code == 3
    finally:
        subprocess.run(["podman", *storage, "system", "reset", "--force"], capture_output=True)
        subprocess.run(["umount", "-l", small], check=True)
        small.rmdir()


@pytest.mark.parametrize(("tag", "base"), [("My Image", None), ("churn;reboot", None), (None, "python 3"), (None, "--privileged"),
                                           (None, "$(reboot)")])
def test_names_with_spaces_or_shell_characters_reach_no_engine(place, built_bundle, monkeypatch, tmp_path, tag, base):
    monkeypatch.setenv("PATH", str(tmp_path))  # there is none to reach
    with pytest.raises(InputError):
        mlw.containerize(built_bundle, tag=tag, base_image=base)


def test_a_base_image_that_podman_does_not_have_is_refused(podman, built_bundle):
    with pytest.raises((InputError, MissingPart), match="base image"):
        mlw.containerize(built_bundle, base_image="localhost/nothing:1", engine="podman")


def test_the_same_bundle_gives_the_same_layers(based, built_image, built_bundle, size, monkeypatch):
    """In `make test` what is done for a bundle is done anew; in `make soak` the whole image, from nothing."""
    if size("image_rebuilds") > 1:
        monkeypatch.setenv("MLWORKBENCH_CONTAINERS_BUILD_OPTIONS", "[--no-cache]")
    original, anew = image_module.render_dockerfile, f"RUN echo {uuid4().hex} >/dev/null\nCOPY bento /bento"
    monkeypatch.setattr(image_module, "render_dockerfile", lambda *a, **o: original(*a, **o).replace("COPY bento /bento", anew))
    made = mlw.containerize(built_bundle, tag=f"mlw-test-{uuid4().hex[:8]}:1")
    try:
        layers = [inspect(based, image.id)["RootFS"]["Layers"][:3] for image in (built_image, made)]
        assert layers[0] == layers[1] and len(layers[0]) == 3
        assert made.sbom == built_image.sbom
    finally:
        based.clean("rmi", made.tag)


@pytest.fixture
def official_base(engine, tmp_path):
    """The name of BentoML's own base image stands for the tests' base, with uv and this machine's authorities in it."""
    name, work = "python:3.11-slim", tmp_path / "base"
    if not engine.clean("image", "inspect", "--format", "{{.Id}}", name):
        work.mkdir()
        authorities = ca_file()
        shutil.copy(find_uv(), work / "uv")
        (work / "ca.crt").write_bytes(authorities.read_bytes() if authorities else b"")
        place = "/etc/ssl/certs/ca-certificates.crt"
        trust = [f"COPY ca.crt {place}", f"ENV SSL_CERT_FILE={place}"] if authorities else []
        (work / "Dockerfile").write_text("\n".join(["FROM mlw-base:py311", "COPY uv /usr/local/bin/uv", *trust, ""]))
        engine.run("build", "--tag", name, work)
        yield
        engine.clean("rmi", name)
    else:
        yield


def test_bentoml_containerize_makes_an_image_of_the_same_bundle_that_answers_the_same(
    engine, official_base, built_bundle, built_image, measured
):
    path, tag = Path(built_bundle.path), f"mlw-bentoml-{uuid4().hex[:8]}:1"
    environ = {**os.environ, "BENTOML_HOME": str(path.parents[2]), "DOCKER_BUILDKIT": "1", "BENTOML_DO_NOT_TRACK": "True"}
    command = [Path(sys.executable).parent / "bentoml", "containerize", built_bundle.tag, "-t", tag]
    try:
        made = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)
        assert made.returncode == 0, (made.stdout + made.stderr)[-3000:]
        with start_container(engine, tag, environment={"MLW_PROBE_TOKEN": "t"}, options=("--read-only=false",)) as container:
            wait_ready(container.url, timeout_s=90, alive=container.alive, output=container.tail)
            check = prove(container.url, read_part(path, "golden.json"), at_once=100, probe="t")
        check_parity(check, "bentoml containerize")
        size = int(engine.run("image", "inspect", "--format", "{{.Size}}", tag).output) / 1e6
        measured(size_mb=round(size), ours_mb=round(built_image.size_mb))
        assert built_image.size_mb < size / 2
    finally:
        engine.clean("rmi", "--force", tag)
