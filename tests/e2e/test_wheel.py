"""A wheel, installed in an empty environment, outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(1800)
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_carries_notebooks_templates_and_settings(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mlworkbench/settings.ini", "mlworkbench/nbs/stages/1_evaluate.ipynb", "mlworkbench/core/stages.py",
            "mlworkbench/templates/demo/census_employment.parquet"} <= names
    templates = [path for path in (ROOT / "templates").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert len(templates) > 30 and {f"mlworkbench/{path.relative_to(ROOT).as_posix()}" for path in templates} <= names
    assert not [n for n in names if n.startswith(("nbs/", "tests/", "templates/")) or "checkpoint" in n]


def test_an_installed_wheel_runs_the_demo_with_no_checkout(wheel, tmp_path):
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("MLWORKBENCH_", "PYTHON"))}
    environ |= {"MLWORKBENCH_WORKSPACE": str(tmp_path / "workspace"), "BENTOML_HOME": str(tmp_path / "bentoml")}
    # the demo of the checkout shows these to work: what takes longest, a bundle's own environment, an image
    environ |= {"MLWORKBENCH_EVALUATION_SKIP": "[explanation, robustness]", "MLWORKBENCH_BUNDLING_ENVIRONMENT": "current",
                "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    python = tmp_path / "env" / "bin" / "python"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=900, env=environ, cwd=tmp_path)

    assert run(UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "env")).returncode == 0
    made = run(UV, "pip", "install", "--quiet", "--python", str(python), str(wheel))
    assert made.returncode == 0, made.stderr
    done = run(str(python.with_name("mlworkbench")), "demo", "--no-keep", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(list((tmp_path / "out").glob("*/*.html"))) == 5
