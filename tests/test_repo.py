"""The house rules, held by tests."""

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
STAGES = sorted((ROOT / "nbs" / "stages").glob("*.ipynb"))
PACKAGE = ROOT / "mlworkbench"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "_modidx.py")
BANDS = {
    "core": (0, 4), "statistics": (5, 9), "serving": (10, 19), "model": (20, 29), "evaluation": (30, 39),
    "bundling": (40, 49), "containers": (50, 59), "deployment": (60, 69), "monitoring": (70, 74), "panels": (75, 79),
    "stages": (80, 80), "app": (90, 99),
}  # fmt: skip


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def exported_module(notebook: Path) -> Path | None:
    for cell in cells(notebook):
        if found := re.match(r"#\| default_exp ([\w.]+)$", source(cell).strip()):
            return PACKAGE.joinpath(*found[1].split(".")).with_suffix(".py")
    return None


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_committed_notebook_holds_no_output_and_no_widget_state(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert "widgets" not in content["metadata"]
    for cell in content["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_told_as_a_page(notebook):
    told = cells(notebook)
    assert len(told) <= 80
    assert told[0]["cell_type"] == "markdown"
    assert re.match(r"# .+\n> .+", source(told[0])), "a title, and a line that asks or says what it is"
    for cell in told:
        exported = cell["cell_type"] == "code" and "#| export" in source(cell)
        assert not exported or len(source(cell).splitlines()) <= 100, source(cell)[:80]
        assert "import *" not in source(cell)
        assert "nbdev_export()" not in source(cell)


@pytest.mark.parametrize("notebook", [p for p in NOTEBOOKS if exported_module(p)], ids=lambda p: p.stem)
def test_a_number_agrees_with_its_room(notebook):
    room = exported_module(notebook).relative_to(PACKAGE).parts[0]
    if notebook in STAGES:
        assert room == "stages" and exported_module(notebook).stem == notebook.stem[2:] + "_stage"
        return
    low, high = BANDS[room]
    assert low <= int(notebook.stem[:2]) <= high


def test_every_module_comes_from_a_notebook_and_none_is_stale():
    exported = {exported_module(p) for p in NOTEBOOKS} - {None}
    generated = {m for m in MODULES if m != PACKAGE / "__init__.py" and m.read_text(encoding="utf-8").strip()}
    assert generated == exported


def test_generated_modules_equal_their_notebooks(tmp_path):
    copy = tmp_path / "house"
    tracked = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and name.split("/")[0] in ("nbs", "mlworkbench", "pyproject.toml"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    for module in copy.glob("mlworkbench/*/*.py"):
        module.write_text("", encoding="utf-8")
    made = run(str(Path(sys.executable).with_name("nbdev-export")), cwd=copy)
    assert made.returncode == 0, made.stderr
    for module in MODULES:
        again = copy / module.relative_to(ROOT)
        assert again.read_text(encoding="utf-8") == module.read_text(encoding="utf-8"), module


def test_the_parameters_cell_of_each_stage_is_its_signature():
    from papermill import inspect_notebook

    from mlworkbench import stages
    from mlworkbench.core.stages import RUN_PARAMETERS, parameters_cell

    for notebook in STAGES:
        definition = getattr(stages, notebook.stem[2:]).stage
        tagged = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
        assert [source(c) for c in tagged] == [parameters_cell(definition)]
        told = inspect_notebook(str(notebook))
        names = [p.name for p in (*definition.parameters, *RUN_PARAMETERS)]
        assert list(told) == names
        assert all(told[n]["help"] for n in names), "every parameter has a help"


def test_a_stage_notebook_has_the_anatomy_of_all():
    for notebook in STAGES:
        told = cells(notebook)
        assert source(told[-1]).strip().endswith("result.check()")
        kinds = ["parameters" if "parameters" in c["metadata"].get("tags", []) else c["cell_type"] for c in told]
        assert kinds[:2] == ["markdown", "parameters"]
        assert all("class " not in source(c).splitlines()[1] for c in told if source(c).startswith("#| export\nclass"))
        assert "Output(" not in "".join(map(source, told))


def test_settings_ini_and_pyproject_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    classic = parser["DEFAULT"]
    from mlworkbench import __version__

    assert classic["lib_name"] == project["project"]["name"]
    assert classic["version"] == __version__
    assert classic["min_python"] == project["project"]["requires-python"].removeprefix(">=")
    assert all(classic[k] == project["tool"]["nbdev"][k] for k in ("lib_path", "nbs_path", "tst_flags"))


def test_every_declared_setting_has_a_default_within_its_range():
    from mlworkbench.core.settings import KEYS, _read, resolve

    assert set(_read(ROOT / "settings.ini")) == set(KEYS)
    assert all(resolve(key, start=Path("/"), environ={})[1] == "default" for key in KEYS)


def test_importing_the_package_is_silent_and_light():
    heavy = ["pandas", "sklearn", "bentoml", "papermill", "ipywidgets", "matplotlib", "numpy", "pydantic", "duckdb"]
    code = f"import sys, mlworkbench; print([m for m in {heavy} if m in sys.modules])"
    done = run(sys.executable, "-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_the_public_surface_is_as_listed():
    import mlworkbench

    listed = sorted("""
        Advice Bundle Cancelled Deployment DeploymentPlan Evaluation GateFailed Image InputError MissingPart Model
        MonitoringReport NotFound
        Scoring Trace Workbench WorkbenchError advise build_bundle containerize deploy evaluate find_deployment load_model
        monitor save_model
        plan_deployment score trace
    """.split())
    assert sorted(mlworkbench.__all__) == listed
    assert all(getattr(mlworkbench, name) is not None for name in listed)


def test_imports_point_down():
    done = run(str(Path(sys.executable).with_name("lint-imports")))
    assert done.returncode == 0, done.stdout


def test_the_generated_package_and_the_notebooks_are_linted():
    done = run(sys.executable, "-m", "ruff", "check", ".")
    assert done.returncode == 0, done.stdout
    names = run(sys.executable, "-m", "ruff", "check", "--isolated", "--no-force-exclude", "--select", "F821,F811,F841",
                *map(str, MODULES))
    assert names.returncode == 0, names.stdout


@pytest.mark.parametrize("module", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_is_small_and_swallows_nothing(module):
    text = module.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = node.body[0] if ast.get_docstring(node) is not None else None  # a stage has a line of help a parameter
            docstring = told.end_lineno - told.lineno if told is not None and len(node.body) > 1 else 0
            assert node.end_lineno - node.lineno - docstring < 60, f"{node.name} is long"
        assert not isinstance(node, ast.Assert), "assert belongs in lessons and tests"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"


def test_the_readme_is_the_index_notebook(tmp_path):
    made = run(sys.executable, "-m", "jupyter", "nbconvert", "--log-level", "ERROR", "--to", "markdown",
               "--output-dir", str(tmp_path), "--output", "README", "nbs/index.ipynb")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()


def test_no_registry_host_and_no_path_of_a_machine_stands_in_what_is_tracked():
    hosts = re.compile(r"https?://[^/\s\"')]*(pypi|pythonhosted|npmjs|debian|jsdelivr|unpkg|googleapis)\.", re.I)
    paths = re.compile(r"(?<![\w./-])/(work|home|Users)/\w")
    for name in run("git", "ls-files", "-z").stdout.split("\0"):
        path = ROOT / name
        if path.suffix in (".parquet", ".png", ".gz", "") and path.name not in ("Makefile", "run"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not hosts.search(text), name
        assert not paths.search(text), name
