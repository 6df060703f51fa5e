"""Requests that somebody sends who wants to see a service break: good ones, spoilt in every way that comes to mind."""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# what stands where something else was meant to stand
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 2**31, 2**63, 2**70, -(10**400), 1e308, -1e-320, -0.0, float("nan"), float("inf"), float("-inf"),
    "", " ", "\u0000", "\ud7ff" * 50, "\ud800", "\u202e", "<script>alert(1)</script>", "'; drop table x; --", "%s%n", "${jndi:x}",
    "../../etc/passwd", "9" * 5000, "nan", "Infinity", "1e999", 0.1 + 0.2, "💥" * 100, "x" * 20_000, {}, [], [[[[]]]],
    {"a": {"b": 1}}, [None] * 50, {"": ""}, {"__class__": "x"}, {"$ref": "#"}, "1970-13-45T99:99", "=cmd|' /C calc'!A0",
)
NAMES = ("", "__class__", "constructor", "rows", "x" * 300, "\u0000", "a.b[0]", "💥", "prediction_id", "on_error")
KINDS = ("text/csv", "text/plain", "application/xml", "application/octet-stream", "multipart/form-data; boundary=x", "", ";;;",
         "application/json; charset=utf-16", "application/x-www-form-urlencoded", "application/jsonlines", "a/b/c/d", "json")
TOKENS = (b"NaN", b"-Infinity", b"\x00", b"\xff\xfe", b"[" * 2000, b'{"a":' * 2000, b"9" * 3000, b"\\ud800", b"\r\n", b" " * 9000,
          b"1e999")
SHOWN = ("", "Bearer", "Bearer  ", "Basic eDp5", "Bearer mlw_a_b", "Bearer " + "x" * 5000, "é")
ENCODINGS = ("gzip", "br", "deflate", "identity", "x" * 100)


@dataclass
class Sent:
    """A request: its path, body and headers, names in small letters."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    def pairs(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI gives them."""
        pairs = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in self.headers.items()]
        return [*pairs, (b"content-length", str(len(self.body)).encode())]


# --- within the JSON ------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The way to every part of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(way for key, item in inner for way in places(item, (*path, key)))]


def spoil_value(rng: random.Random, value: Any) -> Any:
    """The value with one of its parts replaced, left out, renamed, doubled, or joined by another."""
    value = json.loads(json.dumps(value))
    ways = places(value)
    way = ways[rng.randrange(len(ways))]
    if not way:
        return rng.choice([rng.choice(VALUES), [value], {"rows": value}, {"x": value}, [value] * 3])
    holder = value
    for key in way[:-1]:
        holder = holder[key]
    key, what = way[-1], rng.random()
    if what < 0.5:
        holder[key] = rng.choice(VALUES)
    elif what < 0.65:
        del holder[key]
    elif isinstance(holder, dict):
        holder[rng.choice(NAMES)] = rng.choice(VALUES) if what < 0.85 else holder.pop(key)
    else:
        holder.extend([holder[key]] * rng.choice([1, 2, 70]))
    return value


# --- within the bytes -----------------------------------------------------------------------------------------------


def _cut(rng: random.Random, body: bytes) -> bytes:
    return body[: rng.randrange(len(body) + 1)]


def _flip(rng: random.Random, body: bytes) -> bytes:
    place = rng.randrange(max(1, len(body)))
    return body[:place] + bytes([rng.randrange(256)]) + body[place + 1 :]


def _insert(rng: random.Random, body: bytes) -> bytes:
    place = rng.randrange(len(body) + 1)
    return body[:place] + rng.choice(TOKENS) + body[place:]


def _recode(rng: random.Random, body: bytes) -> bytes:
    text, how = body.decode("utf-8", "replace"), rng.choice(["utf-16", "utf-32-le", "utf-8-sig", "latin-1", "utf-7", "gzip"])
    return gzip.compress(body) if how == "gzip" else text.encode(how, "replace")


def _wrap(rng: random.Random, body: bytes) -> bytes:
    deep = rng.choice([10, 1000, 30_000])
    return rng.choice([b"[" * deep + body + b"]" * deep, b'{"rows":' * deep + body + b"}" * deep, body * 3, b"[" * deep])


def _noise(rng: random.Random, body: bytes) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 17, 4000]))


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (_cut, _flip, _flip, _insert, _recode, _wrap, _noise)


# --- a whole request ------------------------------------------------------------------------------------------------


def spoil_headers(rng: random.Random, headers: dict[str, str]) -> dict[str, str]:
    """Now and then another header than the right one."""
    changed = dict(headers)
    if rng.random() < 0.06:
        changed["content-type"] = rng.choice(KINDS)
    if rng.random() < 0.03:
        changed["content-encoding"] = rng.choice(ENCODINGS)
    if rng.random() < 0.1:
        changed["x-request-id"] = rng.choice(["", "golden-0", "x" * 5000, "a b", "é", "../..", "a\tb"])
    if rng.random() < 0.1:
        changed["inference-header-content-length"] = rng.choice(["", "-1", "0", "1", "7", "99999999999999999999", "x", "²"])
    if rng.random() < 0.05:
        changed["accept"] = rng.choice(["", "text/csv", "*/*;q=0", "x" * 3000, "application/jsonlines"])
    if rng.random() < 0.03 and "authorization" in changed:
        changed["authorization"] = rng.choice(SHOWN)
    return changed


def spoil(rng: random.Random, good: Sent) -> Sent:
    """A good request, spoilt."""
    body = good.body
    try:
        value = json.loads(body)
    except ValueError:  # another format: its bytes are spoilt
        value = None
    if value is not None and rng.random() < 0.6:
        for _ in range(rng.randint(1, 3)):
            value = spoil_value(rng, value)
        body = json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    else:
        for _ in range(rng.randint(1, 2)):
            body = rng.choice(BYTES)(rng, body)
    return Sent(good.path, body, spoil_headers(rng, good.headers))
