"""API keys: what opens, what does not, files that change, break or vanish while a service runs."""

import json
import logging
import os
import time

import pytest

from mlworkbench.serving.errors import ServiceError
from mlworkbench.serving.keys import ENVIRONMENT, PROBE, Denied, Keys, make_key, read_keys


def bearer(token: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", f"{scheme} {token}".encode())]


def plain(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", token.encode())]


def write(path, *entries) -> None:
    path.write_text(json.dumps({"schema": 1, "keys": list(entries)}))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def made(path) -> tuple[str, dict]:
    token, entry = make_key(["predict"], label="shop")
    write(path, entry)
    return token, entry


def service(path, **environment: str) -> Keys:
    return Keys({"MLW_KEYS_FILE": str(path), **environment}, refresh_s=0)


def denied(keys: Keys, headers, access: str = "predict") -> Denied:
    with pytest.raises(Denied) as caught:
        keys.check(headers, access)
    return caught.value


def test_a_key_opens_what_it_is_good_for_and_every_document(path, made):
    token, entry = made
    keys = service(path)
    for headers in (bearer(token), bearer(token, "bearer"), bearer(f" {token}"), plain(token)):
        assert keys.check(headers, "predict") == keys.check(headers, "read") == entry["id"]
    refused = denied(keys, bearer(token), "feedback")
    assert refused.status == 403 and refused.reason == "scope" and "insufficient_scope" in refused.headers["www-authenticate"]
    assert denied(keys, bearer(token), "admin").status == 403


def test_health_needs_no_key_and_everything_else_one(path, made):
    keys = service(path)
    assert keys.check([], "open") == ""
    for access in ("read", "predict", "feedback", "admin"):
        refused = denied(keys, [], access)
        assert refused.status == 401 and refused.reason == "absent"
        assert refused.headers["www-authenticate"].startswith("Bearer")


WRONG = [b"", b"Bearer", b"Bearer ", b"Basic dXNlcjpwYXNz", b"Bearer mlw_", b"Bearer mlw__", b"Bearer " + b"x" * 100_000,
         b"Bearer \xff\xfe\x00", b"Bearer mlw_\xc3\xa9_x", b"bearer\tmlw_a_b", b"mlw_a_b"]


@pytest.mark.parametrize("value", WRONG)
def test_what_is_no_key_is_refused_and_never_a_fault(path, made, value):
    keys = service(path)
    assert denied(keys, [(b"authorization", value)]).status == 401
    assert denied(keys, [(b"x-api-key", value)]).status == 401


def test_a_wrong_secret_and_an_unknown_id_read_the_same(path, made):
    token, _ = made
    keys = service(path)
    stranger, _ = make_key(["predict"])
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    answers = [denied(keys, bearer(t)) for t in (stranger, wrong, token + "x", token[:-2], token.split("_", 2)[2])]
    assert len({(a.status, a.reason, str(a), str(a.headers)) for a in answers}) == 1


def test_every_byte_of_a_secret_counts(path, made):
    token, _ = made
    keys = service(path)
    for place in range(13, len(token)):
        assert denied(keys, bearer(token[:place] + ("." if token[place] != "." else ",") + token[place + 1:])).status == 401
    assert keys.check(bearer(token), "predict")


def test_no_secret_is_in_the_file_or_in_what_is_remembered_of_it(path, made):
    token, entry = made
    secret = token.split("_", 2)[2]
    assert secret not in path.read_text() and len(secret) >= 43
    assert secret not in repr(service(path).file.keys)


def test_keys_come_go_and_change_their_scopes_while_the_service_runs(path, made):
    token, entry = made
    keys = service(path)
    assert keys.check(bearer(token), "predict")
    second, more = make_key(["predict", "feedback"])
    write(path, entry, more)
    assert keys.check(bearer(second), "feedback") == more["id"] and keys.check(bearer(token), "predict")
    write(path, entry | {"scopes": ["feedback"]}, more)
    assert denied(keys, bearer(token)).status == 403
    write(path, more)
    assert denied(keys, bearer(token)).status == 401 and keys.check(bearer(second), "predict")
    write(path)
    assert denied(keys, bearer(second)).reason == "unset"


def test_a_file_that_keeps_size_and_time_but_is_another_is_seen(path, made, tmp_path):
    token, entry = made
    keys = service(path)
    keys.check(bearer(token), "read")
    second, more = make_key(["predict"], label="shop")
    other = tmp_path / "other"
    write(other, more)
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    assert other.stat().st_size == path.stat().st_size
    os.replace(other, path)
    assert keys.check(bearer(second), "read") and denied(keys, bearer(token)).status == 401


def test_between_two_looks_the_file_is_not_read_again(path, made):
    token, entry = made
    keys = Keys({"MLW_KEYS_FILE": str(path)}, refresh_s=3600)
    write(path)
    assert keys.check(bearer(token), "predict")
    keys.file.due = 0
    assert denied(keys, bearer(token)).status == 401


BROKEN = ['{"schema": 1, "ke', "[]", "", '{"schema": 2, "keys": []}', '{"schema": 1, "keys": {}}', "\x00\xff",
          '{"schema": 1, "keys": [1]}', '{"schema": 1, "keys": [{"id": "abcd", "sha256": "x", "scopes": ["predict"]}]}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_leaves_the_keys_in_force_and_is_said_once(path, made, text, caplog):
    token, _ = made
    keys = service(path)
    path.write_bytes(text.encode("latin-1"))
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            assert keys.check(bearer(token), "predict")
    (said,) = caplog.records
    assert "stay in force" in said.getMessage() and token not in said.getMessage()
    second, more = make_key(["predict"])
    write(path, more)
    assert keys.check(bearer(second), "predict")


def test_a_file_that_vanishes_leaves_the_keys_in_force_and_is_said_once(path, made, caplog):
    token, entry = made
    keys = service(path)
    path.unlink()
    with caplog.at_level(logging.ERROR):
        assert [bool(keys.check(bearer(token), "predict")) for _ in range(3)] == [True] * 3
    assert len(caplog.records) == 1
    write(path, entry)
    assert keys.check(bearer(token), "predict")


def test_a_file_that_becomes_readable_again_without_a_change_is_read(path, made, monkeypatch, caplog):
    token, _ = made

    def no(self):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "read_bytes", no)
        keys = service(path)
        assert [denied(keys, bearer(token)).reason for _ in range(3)] == ["unset"] * 3
    assert len(caplog.records) == 1 and "Permission denied" in caplog.text
    assert keys.check(bearer(token), "predict")


def test_without_any_key_nobody_is_let_in_and_the_answer_says_what_to_set(tmp_path, caplog):
    for keys in (Keys({}), service(tmp_path / "absent.json")):
        refused = denied(keys, bearer("mlw_abcd_" + "x" * 43))
        assert refused.status == 401 and refused.reason == "unset"
        assert all(name in str(refused) for name in ("MLW_KEYS_FILE", "MLW_API_KEY", "MLW_AUTH=off"))
        assert keys.check([], "open") == ""


def test_the_key_in_the_environment_opens_everything_beside_those_of_the_file(path, made):
    token, entry = made
    keys = service(path, MLW_API_KEY=" a-long-container-secret\n")
    for access in ("read", "predict", "feedback", "admin"):
        assert keys.check(plain("a-long-container-secret"), access) == ENVIRONMENT
    assert keys.check(bearer(token), "predict") == entry["id"]
    assert denied(keys, plain("a-long-container-secre")).status == 401
    with pytest.raises(ServiceError, match="at least 16") as caught:
        Keys({"MLW_API_KEY": "tooshort"})
    assert "tooshort" not in str(caught.value.errors)


def test_the_launcher_s_token_counts_as_every_scope_and_an_empty_one_as_none(path):
    keys = service(path, MLW_PROBE_TOKEN="t" * 32)
    assert {keys.check([(b"x-probe-token", b"t" * 32)], a) for a in ("read", "predict", "feedback", "admin")} == {PROBE}
    assert denied(keys, [(b"x-probe-token", b"t" * 31)]).status == 401
    assert denied(service(path), [(b"x-probe-token", b"")]).status == 401


@pytest.mark.parametrize(("auth", "variable", "on"), [
    ("on", None, True), ("off", None, False), ("on", "off", False), ("off", "on", True)])
def test_auth_is_switched_by_the_setting_and_by_the_environment_over_it(auth, variable, on):
    keys = Keys({"MLW_AUTH": variable} if variable else {}, auth=auth)
    assert keys.on is on
    if not on:
        assert keys.check([], "admin") == ""


def test_another_word_for_off_is_refused_and_not_taken_for_on_or_off():
    with pytest.raises(ServiceError, match="MLW_AUTH must be on or off"):
        Keys({"MLW_AUTH": "false"})


def test_a_key_ends_at_its_hour_though_it_was_verified_before(path, monkeypatch):
    token, entry = make_key(["predict"], expires="2031-01-01T00:00:00+00:00")
    write(path, entry)
    keys = service(path)
    assert keys.check(bearer(token), "predict")
    monkeypatch.setattr(time, "time", lambda: 1_956_528_001.0)  # a second into 2032
    assert denied(keys, bearer(token)).reason == "expired"


FAULTS = [{"id": "A"}, {"id": 7}, {"sha256": "0" * 63}, {"sha256": "Z" * 64}, {"scopes": []}, {"scopes": "predict"},
          {"scopes": ["root"]}, {"label": 3}, {"expires": "soon"}, {"expires": "2031-01-01T00:00:00"}, {"expires": 1},
          {"expire": None}]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_file_is_read_strictly_and_a_fault_names_no_value(fault):
    _, entry = make_key(["predict"])
    with pytest.raises(ServiceError, match="entry 1") as caught:
        read_keys(json.dumps({"schema": 1, "keys": [make_key(["predict"])[1], entry | fault]}))
    assert entry["sha256"] not in str(caught.value)


def test_two_keys_of_one_id_are_refused():
    _, entry = make_key(["predict"])
    with pytest.raises(ServiceError, match="twice"):
        read_keys(json.dumps({"schema": 1, "keys": [entry, entry]}))


def test_what_is_remembered_does_not_grow_with_ways_to_write_a_key(path, made):
    token, _ = made
    keys = service(path)
    for blanks in range(3000):
        assert keys.check([(b"authorization", b"Bearer " + b" " * blanks + token.encode())], "predict")
    for number in range(3000):
        denied(keys, bearer(f"mlw_abcd_{number}"))
    assert len(keys._seen) <= 1001
