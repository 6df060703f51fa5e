"""What tests with containers need of an engine: the images that they start from, and what is left in it at the end."""

import os
import subprocess
from pathlib import Path

import pytest

from mlworkbench.containers.dockerfile import OURS
from mlworkbench.containers.engine import Engine, find_engine
from mlworkbench.core.errors import MissingPart
from mlworkbench.deployment.yard import workspace_label

TESTS = Path(__file__).resolve().parent
SETTINGS = {"MLWORKBENCH_CONTAINERS_BASE_IMAGE": "mlw-base:py311", "MLWORKBENCH_DEPLOYMENT_PROXY_IMAGE": "mlw-proxy:debian"}


def docker() -> Engine:
    """A running engine that has the tests' images; without one, skipped (or failed under MLWORKBENCH_REQUIRE=all)."""
    try:
        found = find_engine("docker")
        made = subprocess.run(["sh", TESTS / "proxy_image.sh"], capture_output=True, text=True,
                              env={**os.environ, "DOCKER": found.program})
        problem = made.stderr.strip() if made.returncode else ""
    except MissingPart as missing:
        problem = str(missing)
    if problem:
        (pytest.fail if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip)(problem)
    return found


# a machine without systemd and with limits that cannot be raised, as containers and CI often are
NARROW = {
    "MLWORKBENCH_CONTAINERS_ENGINE_OPTIONS": "[--runtime, runc]", "MLWORKBENCH_CONTAINERS_BUILD_OPTIONS": "[--isolation, chroot]",
    "MLWORKBENCH_CONTAINERS_RUN_OPTIONS": "[--ulimit, 'nofile=4096:4096', --ulimit, 'nproc=4096:4096']",
    "MLWORKBENCH_CONTAINERS_BASE_IMAGE": "localhost/mlw-base:py311",
    "MLWORKBENCH_DEPLOYMENT_PROXY_IMAGE": "localhost/mlw-proxy:debian",
}


def podman() -> Engine:
    """Podman with the tests' images, which Docker made and which were kept as tarballs."""
    try:
        found = find_engine("podman")
        for script in ("base_image.sh", "proxy_image.sh"):
            subprocess.run(["sh", TESTS / script], check=True, env={**os.environ, "DOCKER": "podman"}, capture_output=True)
        problem = ""
    except MissingPart as missing:
        problem = str(missing)
    if problem:
        (pytest.fail if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip)(problem)
    return found


def of_workspace(engine: Engine, root: Path, deployment: str = "") -> list[str]:
    """Containers and networks that a workspace has in an engine, all or those of one deployment; running or not."""
    filters = ["--filter", f"label={OURS}.workspace={workspace_label(root / 'deployments' / 'x')}"]
    filters += ["--filter", f"label={OURS}.deployment={deployment}"] if deployment else []
    containers = engine.run("ps", "--all", "--format", "{{.Names}}", *filters).output.split()
    return sorted(containers) + engine.run("network", "ls", "--format", "{{.Name}}", *filters).output.split()


def images_of(engine: Engine, sha256: str) -> list[str]:
    """The images of a bundle."""
    return engine.run("images", "--no-trunc", "--quiet", "--filter", f"label={OURS}.bundle.sha256={sha256}").output.split()


def remove_images(hashes: list[str]) -> None:
    """Remove the images of these bundles, from an engine that is there."""
    try:
        engine = find_engine("docker")
    except MissingPart:
        return
    for sha256 in hashes:
        if found := images_of(engine, sha256):
            engine.clean("rmi", "--force", *found)
