"""What tests with containers need of an engine: the images that they start from, and what is left in it at the end."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from mlworkbench.containers.dockerfile import OURS
from mlworkbench.containers.engine import Engine, find_engine
from mlworkbench.core.errors import MissingPart
from mlworkbench.deployment.yard import workspace_label

TESTS = Path(__file__).resolve().parent
SETTINGS = {"MLWORKBENCH_CONTAINERS_BASE_IMAGE": "mlw-base:py311", "MLWORKBENCH_CONTAINERS_PROXY_IMAGE": "mlw-proxy:debian"}


def engine_with(name: str, *scripts: str) -> Engine:
    """A running engine with the images that scripts here make; without one, skipped (failed under MLWORKBENCH_REQUIRE=all)."""
    problem = ""
    try:
        found = find_engine(name)
        for script in scripts:
            environ = {**os.environ, "DOCKER": found.program}
            made = subprocess.run(["sh", TESTS / script], capture_output=True, text=True, env=environ)
            problem = problem or (made.stderr.strip() if made.returncode else "")
    except MissingPart as missing:
        problem = str(missing)
    if problem:
        (pytest.fail if os.environ.get("MLWORKBENCH_REQUIRE") == "all" else pytest.skip)(problem)
    return found


def docker() -> Engine:
    """Docker with the tests' base and proxy."""
    return engine_with("docker", "proxy_image.sh")


# a machine without systemd and with limits that cannot be raised, as containers and CI often are
NARROW = {
    "MLWORKBENCH_CONTAINERS_ENGINE_OPTIONS": "[--runtime, runc]", "MLWORKBENCH_CONTAINERS_BUILD_OPTIONS": "[--isolation, chroot]",
    "MLWORKBENCH_CONTAINERS_RUN_OPTIONS": "[--ulimit, 'nofile=4096:4096', --ulimit, 'nproc=4096:4096']",
    "MLWORKBENCH_CONTAINERS_BASE_IMAGE": "localhost/mlw-base:py311",
    "MLWORKBENCH_CONTAINERS_PROXY_IMAGE": "localhost/mlw-proxy:debian",
}


def podman() -> Engine:
    """Podman with the same images, which Docker made and which were kept as tarballs."""
    return engine_with("podman", "base_image.sh", "proxy_image.sh")


def of_workspace(engine: Engine, root: Path, deployment: str = "") -> list[str]:
    """Containers and networks that a workspace has in an engine, all or those of one deployment; running or not."""
    filters = ["--filter", f"label={OURS}.workspace={workspace_label(root / 'deployments' / 'x')}"]
    filters += ["--filter", f"label={OURS}.deployment={deployment}"] if deployment else []
    containers = engine.run("ps", "--all", "--format", "{{.Names}}", *filters).output.split()
    return sorted(containers) + engine.run("network", "ls", "--format", "{{.Name}}", *filters).output.split()


def images_of(engine: Engine, sha256: str) -> list[str]:
    """The images of a bundle."""
    return engine.run("images", "--no-trunc", "--quiet", "--filter", f"label={OURS}.bundle.sha256={sha256}").output.split()


def copy_images(hashes: list[str], target: Engine) -> None:
    """Give another engine the images of these bundles that Docker has and it has not."""
    for sha256 in hashes:
        label, names = f"label={OURS}.bundle.sha256={sha256}", "{{.Repository}}:{{.Tag}}"
        told = subprocess.run(["docker", "images", "--filter", label, "--filter", "dangling=false", "--format", names],
                              capture_output=True, text=True)
        if told.stdout.split() and not images_of(target, sha256):
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(["docker", "save", "--output", f"{folder}/image.tar", told.stdout.split()[0]], check=True)
                target.run("load", "--quiet", "--input", f"{folder}/image.tar")


def remove_images(hashes: list[str]) -> None:
    """Remove the images of these bundles, from every engine that is there."""
    for name in ("docker", "podman"):
        with contextlib.suppress(MissingPart):
            engine = find_engine(name)
            for sha256 in hashes:
                if found := images_of(engine, sha256):
                    engine.clean("rmi", "--force", *found)
