"""What the builder leaves out, keeps and counts: its scripts, as they are, on files of this machine."""

import json
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from mlworkbench.bundling.lock import render_lock
from mlworkbench.containers import audit, sizes
from mlworkbench.containers.dockerfile import builder_script
from mlworkbench.core.errors import InputError

RULES, EXERCISE = builder_script("rules"), builder_script("exercise")
SITE = Path("/site")


def spared(name: str, *paths: str, used: tuple[str, ...] = ()) -> dict[str, str]:
    found = RULES["spare"](name, SITE, [SITE / path for path in paths], {str(SITE / path) for path in used})
    return {str(path.relative_to(SITE)): why for path, why in found.items()}


def test_tests_and_headers_are_left_out_of_every_package_and_its_licence_never():
    found = spared("any", "any/tests/test_a.py", "any/a.pyi", "any/include/a.h", "any/a.py", "any/testing.py",
                   "any-1.dist-info/licenses/tests/LICENSE", "any-1.dist-info/METADATA")
    assert set(found) == {"any/tests/test_a.py", "any/a.pyi", "any/include/a.h"}


def test_a_rule_for_one_package_touches_no_other():
    assert list(spared("onnxruntime", "onnxruntime/tools/a.py").values()) == ["makes and changes models; a service runs one"]
    assert spared("another", "onnxruntime/tools/a.py") == {}


def test_a_rule_that_would_take_a_file_in_use_does_nothing():
    paths = ("onnxruntime/tools/a.py", "onnxruntime/transformers/b.py", "onnxruntime/tests/c.py")
    assert set(spared("onnxruntime", *paths, used=("onnxruntime/tools/a.py",))) == {"onnxruntime/tests/c.py"}


def test_every_rule_says_why_and_names_a_package_as_locks_do():
    for whose, pattern, why in RULES["LEFT_OUT"]:
        assert why and pattern and (whose == "*" or whose == whose.lower().replace("_", "-"))


def test_a_library_without_what_is_never_loaded_still_works(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import lean; print(lean.strip(lean.Path(sys.argv[2])))"
    lean, scripts = [sys.executable, "-Bc", code], Path(__file__).resolve().parents[2] / "templates" / "container"
    source = next(Path(str(file.locate())) for file in metadata.files("uvloop") if file.name.endswith(".so"))
    copied = tmp_path / source.name
    copied.write_bytes(source.read_bytes())
    saved = int(subprocess.run([*lean, scripts, copied], capture_output=True, text=True, check=True).stdout)
    assert saved > 5e6 and copied.stat().st_size == source.stat().st_size - saved
    # what was cut is what the size before the cut said, and a second cut finds nothing
    assert RULES["loaded_size"](source.read_bytes(), source.stat().st_size) == copied.stat().st_size
    assert int(subprocess.run([*lean, scripts, copied], capture_output=True, text=True, check=True).stdout) == 0
    code = ("import importlib.util as u, sys; spec = u.spec_from_file_location('uvloop.loop', sys.argv[1]);"
            "module = u.module_from_spec(spec); spec.loader.exec_module(module); print(module.Loop.__name__)")
    done = subprocess.run([sys.executable, "-c", code, copied], capture_output=True, text=True)
    assert done.stdout.strip() == "Loop", done.stderr


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01" + bytes(100), b"\x7fELF\x02\x01" + b"\xff" * 58])
def test_what_is_no_whole_library_of_64_bits_is_left_as_it_is(data):
    assert RULES["loaded_size"](data, len(data)) == len(data)


def test_what_python_runs_is_noted_by_its_file(tmp_path):
    scripts = Path(__file__).resolve().parents[2] / "templates" / "container"
    noted = tmp_path / "noted"
    code = "import json, colorsys, ctypes; ctypes.CDLL(None)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(scripts), "LEAN_TRACE": str(noted)})
    ran = {Path(line).name for line in noted.read_text().splitlines()}
    assert {"colorsys.py", "decoder.py"} <= ran and any(name.startswith("_ctypes") and name.endswith(".so") for name in ran)
    assert str(Path(sysconfig.get_path("stdlib")) / "colorsys.py") in noted.read_text()


def test_every_route_of_a_service_is_asked():
    from mlworkbench.serving.service import ROUTES

    asked = {path for path, _, _ in EXERCISE["requests_for"]([{"a": 1}])} | set(EXERCISE["PAGES"])
    plain = {path.replace("{model}", "{name}") for path in ROUTES} - {"/v2/models/{name}/versions/{version}/infer",
                                                                      "/v2/models/{name}/versions/{version}/ready"}
    assert plain <= asked


def test_a_row_with_commas_and_quotes_is_a_line_of_csv():
    assert EXERCISE["csv_line"]({"a": 'x,"y"', "b": None, "c": 1.5, "d": [1, 2]}) == '"x,""y""",,1.5,"[1, 2]"'
    assert EXERCISE["tensors"]([{"a": 1, "b": None}])["inputs"][1]["data"] == [None]


def test_a_fault_of_the_service_counts_and_a_refusal_does_not():
    assert EXERCISE["faults"]([("/predict", 400), ("/explain", 504), ("/feedback", 503), ("/model", 500)]) == ["/model: 500"]


class Locked:
    def __init__(self, folder, pins):
        self.path, self.lock = str(folder), pins
        (folder / "src").mkdir()
        (folder / "src" / "requirements.lock").write_text(render_lock(pins))


def test_a_forecast_says_from_where_it_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(sizes, "environments_folder", lambda: tmp_path)
    monkeypatch.setattr(sizes, "find_uv", lambda: "/nowhere/uv")
    here = {"jinja2": metadata.version("jinja2"), "six": "0.0.1"}
    found = {one.name: one for one in sizes.forecast_sizes(Locked(tmp_path, here))}
    assert found["jinja2"].source == sizes.HERE and 0.2 < found["jinja2"].kept_mb <= found["jinja2"].installed_mb < 2
    assert (found["six"].source, found["six"].kept_mb) == (sizes.NOWHERE, 0.0)


def test_a_forecast_of_what_is_not_here_is_the_wheel_that_the_index_tells(tmp_path, monkeypatch):
    wheel = {"url": "https://index.example/six-0.0.1-py3-none-any.whl", "size": 11000}
    (tmp_path / "told").write_text(f'[[packages]]\nname = "six"\nwheels = [{{url = "{wheel["url"]}", size = {wheel["size"]}}}]\n')
    program(tmp_path / "uv", f'while [ "$1" != -o ]; do shift; done; cp {tmp_path}/told "$2"')
    monkeypatch.setattr(sizes, "environments_folder", lambda: tmp_path)
    monkeypatch.setattr(sizes, "find_uv", lambda: str(tmp_path / "uv"))
    (one,) = sizes.forecast_sizes(Locked(tmp_path, {"six": "0.0.1"}))
    assert (one.source, one.kept_mb) == (sizes.WHEEL, 0.011)


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("budget", ["size <= 4", "size_mb", "size_mb <= many", 'package("a").size <= "4"', "roc_auc >= 0.8",
                                    "size_mb == 3"])
def test_a_budget_that_says_nothing_of_sizes_is_refused(budget):
    with pytest.raises(InputError, match="^budget: "):
        sizes.budget_rules([budget])


def test_a_budget_is_held_against_what_was_measured():
    inventory = {"packages": [{"name": "numpy", "kept": 44_000_000, "bytecode": 2_000_000}]}
    rules = sizes.budget_rules(["100 <= size_mb <= 200", 'package("numpy") <= 50'])
    assert sizes.check_budget(rules, 150.0, inventory)[1] == ()
    assert sizes.check_budget(rules, 201.0, inventory)[1] == ("size_mb <= 200 does not hold: it is 201, off by 1.",)


def test_an_audit_that_cannot_be_made_is_told_as_that(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "find_auditor", lambda: str(tmp_path / "pip-audit"))
    program(tmp_path / "pip-audit", "echo 'ConnectionError: https://me:word@index.example is not reachable'; exit 1")
    found, why = audit.audit_lock(tmp_path / "lock")
    assert found is None and "not reachable" in why and "word" not in why
    (tmp_path / "told").write_text(json.dumps({"dependencies": [{"name": "six", "version": "1", "vulns": []}]}))
    program(tmp_path / "pip-audit", f"cat {tmp_path}/told")
    found, why = audit.audit_lock(tmp_path / "lock")
    assert found.empty and why == ""
