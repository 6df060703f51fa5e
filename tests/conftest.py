"""What all tests share: sizes, real parts, a workspace of their own."""

import datetime
import json
import os
import platform
import shutil
import signal
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
# the two analyses that ask the model most often: their own tests, and those of the whole page, ask for them
os.environ.setdefault("MLWORKBENCH_EVALUATION_SKIP", "[explanation, robustness]")


@pytest.fixture
def size() -> Callable[[str], int]:
    """Sizes of heavy tests: small in `make test`, full in `make soak` (MLW_SOAK=1); same code."""
    table = tomllib.loads((ROOT / "tests" / "sizes.toml").read_text(encoding="utf-8"))
    column = "full" if os.environ.get("MLW_SOAK") else "small"
    return lambda name: table[name][column]


LONGEST = "test_deployment_targets.py"  # one worker takes a whole file: the longest is begun first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that takes a size, or measures, is what `make soak` runs at full size; there it may take its time."""
    items.sort(key=lambda item: item.path.name != LONGEST)
    for item in items:
        if {"size", "measured"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.soak)
            if os.environ.get("MLW_SOAK"):
                item.add_marker(pytest.mark.timeout(7200))


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


NOTES = "MLW_SOAK_NOTES"  # the file that all processes of a soak write their notes to


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches what tests start; a soak's notes are gathered in one file, whichever process measured."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("MLW_SOAK") and not hasattr(config, "workerinput"):
        handle, path = tempfile.mkstemp(prefix="soak-", suffix=".jsonl")
        os.close(handle)
        os.environ[NOTES] = path


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Note what a heavy test measured; `make soak` writes all notes as a dated table to docs/evidence."""

    def note(**figures: object) -> None:
        if path := os.environ.get(NOTES):
            told = ", ".join(f"{k} {v}" for k, v in figures.items())
            with open(path, "a", encoding="utf-8") as file:  # one short line: appended whole
                file.write(json.dumps([request.node.name, request.node.path.name, told]) + "\n")

    return note


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What a test printed or logged is told as text that can be sent: half of a surrogate pair ends the process otherwise."""
    told = yield
    told.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in told.sections]
    return told


def _whole(config: pytest.Config) -> bool:
    """Whether all tests were asked for: no file, folder or keyword was named."""
    return config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not os.environ.get("MLW_SOAK") or hasattr(session.config, "workerinput"):
        return
    path = Path(os.environ.pop(NOTES))
    rows = sorted(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    path.unlink()
    if not rows or not _whole(session.config):  # the table of a part would stand where the whole one was
        print("", *(" | ".join(row) for row in rows), sep="\n")
        return
    day = datetime.date.today().isoformat()
    outcome = "every test passed" if exitstatus == 0 else f"pytest ended with {int(exitstatus)}"
    lines = [f"# Soak, {day}", "", f"Python {platform.python_version()}, {os.cpu_count()} cores; {outcome}.", "",
             "| test | file | measured |", "|---|---|---|", *(f"| `{t}` | {f} | {m} |" for t, f, m in rows), ""]
    (ROOT / "docs" / "evidence" / f"{day}-soak.md").write_text("\n".join(lines), encoding="utf-8")


# --- bundling and containers: one bundle, built and proved once, for all tests ------------------------------------


@pytest.fixture(scope="session")
def demo_parts():
    """The demo's fitted pipeline with people that it has not seen: (model, X, y)."""
    from mlworkbench.app.demo import demo_model

    return demo_model()


@pytest.fixture(scope="session")
def built_bundle(tmp_path_factory: pytest.TempPathFactory, demo_parts):
    """A bundle of the demo's pipeline, proved in its own environment, in a store of the tests' own; never change it."""
    import mlworkbench as mlw

    model, X, y = demo_parts
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLWORKBENCH_WORKSPACE", str(folder / "workspace"))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        evaluation = mlw.evaluate(model, X, y, name="census-employment", gate=["roc_auc >= 0.8"], resamples=50)
        return mlw.build_bundle(model, name="census-employment", examples=X, evaluation=evaluation, environment="isolated")
