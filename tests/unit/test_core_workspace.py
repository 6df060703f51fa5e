"""The workspace: found, written, locked, or refused in one sentence."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mlworkbench.core.errors import InputError, NotFound
from mlworkbench.core.references import find
from mlworkbench.core.workspace import Artifact, Workspace, workspace


def test_a_project_keeps_its_own_workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("MLWORKBENCH_WORKSPACE", raising=False)
    (tmp_path / "settings.ini").write_text("[mlworkbench.monitoring]\nalpha = 0.2\n")
    monkeypatch.chdir(tmp_path)
    assert workspace().root == tmp_path / ".mlworkbench"


@pytest.mark.parametrize("root", ["/dev/null/x", "/proc/x"])
def test_a_workspace_that_cannot_be_written_is_refused(root):
    with pytest.raises(InputError, match="MLWORKBENCH_WORKSPACE"):
        _ = Workspace(Path(root)).runs


def test_a_ledger_of_a_newer_release_is_refused(place):
    place.mkdir()
    connection = sqlite3.connect(place / "ledger.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="got 99"):
        workspace().ledger.artifacts("bundle")


def test_what_one_process_records_another_finds(place):
    code = """
from mlworkbench.core.workspace import Artifact, workspace
for i in range(50):
    workspace().ledger.record(Artifact("bundle", f"churn:{i}", "churn", run=f"r{i}"))
"""
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [w.wait(60) for w in writers] == [0, 0, 0]
    assert len(workspace().ledger.artifacts("bundle")) == 50
    assert find("bundle", "run:r7").id == "churn:7"
    with pytest.raises(NotFound, match="Did you mean"):
        find("bundle", "chrn:7")


def test_a_lock_is_free_again_when_its_holder_was_killed(place):
    code = """
import time
from mlworkbench.core.workspace import workspace
with workspace().lock("bundle", "churn"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match="bundle churn: one run at a time"), workspace().lock("bundle", "churn"):
        pass
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    with workspace().lock("bundle", "churn"):
        workspace().ledger.record(Artifact("model", "m", "m"))
    assert workspace().ledger.get("model", "m").name == "m"
