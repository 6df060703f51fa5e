"""The service's own log: one line of JSON each, whatever is in it, and nothing of rows or keys."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextvars import copy_context

import pytest

from mlworkbench.serving.records import ACCESS, REQUEST_ID, EcsFormatter, log_request, write_records

SERVERS = "%(asctime)s %(levelname_bracketed)s %(component)s %(message)s"  # as BentoML's servers write
HOSTILE = ["a\nb", "\r\n", "\u2028\u2029\x85", "\x00\x1b[31m\x7f", '"}\n{"log.level": "info"', "\ud800", "é💥",
           "%s %d %(x)s", "\\"]


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What a logger writes that was set up as BentoML sets up those of a server."""
    written, touched = io.StringIO(), ["bentoml", "uvicorn.error", "uvicorn.access", "circus", "py.warnings"]
    before = {name: (list((x := logging.getLogger(name)).handlers), x.propagate, x.level) for name in touched}
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter(SERVERS))
    for name in ("bentoml", "uvicorn.error"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("bentoml").propagate = False
    logging.getLogger().addHandler(handler)
    yield written
    logging.captureWarnings(False)
    logging.getLogger().removeHandler(handler)
    for name, (handlers, propagate, level) in before.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(output: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def told(record: logging.LogRecord, **about) -> dict:
    text = EcsFormatter(about).format(record)
    assert len(text.splitlines()) == 1 and text.isascii()
    return json.loads(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_a_line_and_all_of_it_comes_back(text, output):
    write_records(name="m", version="1")
    log_request("all", text, f"/x{text}", 404, 0.001, key=text)
    logging.getLogger("bentoml.serving").error("%s", text)
    first, second = lines(output)
    assert (first["url.path"], first["user.id"], second["message"]) == (f"/x{text}", text, text)


def test_a_line_has_the_schema_s_fields_and_its_request():
    record = logging.LogRecord("bentoml.serving", logging.WARNING, "f", 1, "hello %s", ("you",), None)

    def inside():
        REQUEST_ID.set("r-1")
        return told(record, **{"service.name": "m"})

    found = copy_context().run(inside)
    assert found["message"] == "hello you" and found["log.level"] == "warning" and found["ecs.version"]
    assert found["http.request.id"] == "r-1" and found["service.name"] == "m" and found["@timestamp"].endswith("Z")
    assert "http.request.id" not in told(record)


def failed(request: str) -> dict:
    """A line about an exception whose message holds a person's name."""
    REQUEST_ID.set(request)
    try:
        float("Ann Marie")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), (type(error), error, error.__traceback__))
        return told(record)


def test_an_exception_within_a_request_is_told_without_its_message():
    found = copy_context().run(failed, "r-1")
    assert "Ann Marie" not in json.dumps(found) and found["error.type"] == "ValueError" and "failed" in found["error.stack_trace"]
    outside = copy_context().run(failed, "")
    assert "Ann Marie" in outside["error.message"] and "Traceback" in outside["error.stack_trace"]


def test_a_very_long_text_is_cut():
    assert len(EcsFormatter({}).format(logging.LogRecord("x", 20, "f", 1, "y" * 10**6, (), None))) < 10_000


@pytest.mark.parametrize(("mode", "written"), [("off", []), ("errors", [404, 500]), ("all", [200, 404, 500])])
def test_which_requests_are_told_is_a_setting(mode, written, output):
    assert mode in ACCESS
    write_records(name="m")
    for status in (200, 404, 500):
        log_request(mode, "GET", "/model", status, 0.002, key="abcd")
    assert [line["http.response.status_code"] for line in lines(output)] == written
    assert all(line["event.duration"] == 2_000_000 and line["user.id"] == "abcd" for line in lines(output))
    assert all((line["log.level"] == "error") == (line["http.response.status_code"] >= 500) for line in lines(output))


def test_all_loggers_of_a_server_write_json_and_each_line_once(output):
    assert write_records(name="m")
    logging.getLogger("uvicorn.error").error("from uvicorn")
    logging.getLogger("some.library").error("from a library")
    logging.getLogger("bentoml.serving").info("from us")
    warnings.warn("beware", stacklevel=1)
    said = [line["message"] for line in lines(output)]
    assert said[:3] == ["from uvicorn", "from a library", "from us"] and "beware" in said[3] and len(said) == 4


def test_where_no_server_s_logging_was_set_up_nothing_is_changed():
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("bentoml")
    logger.addHandler(handler)
    try:
        write_records(name="m")
        assert not isinstance(handler.formatter, EcsFormatter)
    finally:
        logger.removeHandler(handler)
