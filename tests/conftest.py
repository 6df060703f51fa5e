"""What all tests share: sizes, real parts, a workspace of their own."""

import os
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")


@pytest.fixture(scope="session")
def size() -> Callable[[str], int]:
    """Sizes of heavy tests: small in `make test`, full in `make soak` (MLW_SOAK=1); same code."""
    table = tomllib.loads((ROOT / "tests" / "sizes.toml").read_text(encoding="utf-8"))
    column = "full" if os.environ.get("MLW_SOAK") else "small"
    return lambda name: table[name][column]


@pytest.fixture(scope="session")
def need() -> Callable[[str, str], str]:
    """The path of a program; without it the test is skipped, or fails under MLWORKBENCH_REQUIRE=all."""

    def find(program: str, how: str) -> str:
        path = shutil.which(program)
        if path is None:
            message = f"{program} is not on PATH. {how}"
            if os.environ.get("MLWORKBENCH_REQUIRE") == "all":
                pytest.fail(message)
            pytest.skip(message)
        return path

    return find


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace and a BentoML store of the test's own; the current folder is empty."""
    folder = tmp_path / "workspace"
    monkeypatch.setenv("MLWORKBENCH_WORKSPACE", str(folder))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.delenv("MLWORKBENCH_SETTINGS", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return folder
