"""Results: plain values, secrets masked, an error held until it is checked."""

import json

import pytest

from mlworkbench.app.run import attempt, run_stage
from mlworkbench.core.errors import GateFailed, InputError
from mlworkbench.core.results import Unfinished, plain
from mlworkbench.core.secrets import mask
from mlworkbench.core.workspace import workspace


def test_plain_values_are_json_and_hold_no_secret(monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", "t0ken-123456")
    value = plain({"a": float("inf"), "b": ("https://ann:pw@x/y", b"t0ken-123456"), 3: {"z", "y"}})
    text = json.dumps(value)
    assert value["a"] is None and value["3"] == ["y", "z"]
    assert "pw" not in text and "t0ken" not in text


def test_a_count_of_tokens_is_no_secret():
    assert mask("limit 200000", {"MAX_TOKENS": "200000"}) == "limit 200000"


def test_an_attempt_holds_an_error_until_it_is_checked(place):
    from mlworkbench import stages

    held = attempt(stages.deploy, bundle="none:1")
    assert isinstance(held, Unfinished) and held.status == "error" and "none:1" in held.reasons[0]
    with pytest.raises(InputError, match="none:1"):
        held.check()
    [run] = workspace().ledger.runs("deploy")
    assert run.status == "error"


def test_a_gate_inside_a_stage_is_a_failure_and_no_error(place, monkeypatch):
    from mlworkbench import stages
    from mlworkbench.stages import deploy_stage

    def refuse(*_, **__):
        raise GateFailed("parity: the golden rows must be equal, got 3 that differ.")

    monkeypatch.setattr(deploy_stage, "bundle_path", refuse)
    with pytest.raises(GateFailed):
        run_stage(stages.deploy, bundle="x:1", out=str(place.parent / "out"))
    record = json.loads((place.parent / "out" / "deploy.json").read_text())
    assert (record["status"], record["error"]) == ("failed", None) and "3 that differ" in record["reasons"][0]
    assert attempt(stages.deploy, bundle="x:1").status == "failed"
