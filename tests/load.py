"""Many callers of a service at once, at a pace of their own choosing; what each was answered, and when."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Heard:
    """What callers were answered.

    Parameters
    ----------
    statuses
        Answers by their status; -1: the connection broke.
    seconds
        Of each answer with 200.
    impolite
        Answers with 503 that do not say when to come back.
    """

    statuses: Counter = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    impolite: int = 0


def request(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """The bytes of a POST."""
    lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and head of one answer; its body is passed over."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), head.lower()


async def _caller(port: int, asked: bytes, heard: Heard, end: float, start: float, pause_s: float) -> None:
    writer = None
    while time.monotonic() < end:
        await asyncio.sleep(max(0.0, start - time.monotonic()))
        start = max(start + pause_s, time.monotonic() - 1)  # a caller that was kept waiting does not make up for all of it
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.monotonic()
            writer.write(asked)
            status, head = await asyncio.wait_for(_read(reader), 60)
        except (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError):
            status, head = -1, b"retry-after"
        heard.statuses[status] += 1
        if status == 200:
            heard.seconds.append(time.monotonic() - began)
        heard.impolite += status == 503 and b"retry-after" not in head
        if status == -1 or b"connection: close" in head:
            if writer is not None:
                writer.close()
            writer = None
    if writer is not None:
        writer.close()


def call(port: int, asked: bytes, seconds: float, *, callers: int = 1, rate: float | None = None) -> Heard:
    """Let `callers` ask for so long, each as soon as it was answered, or together so many times a second."""
    heard, pause_s = Heard(), 0.0 if rate is None else callers / rate

    async def all_of_them() -> None:
        now = time.monotonic()
        starts = [now + pause_s * i / callers for i in range(callers)]
        await asyncio.gather(*(_caller(port, asked, heard, now + seconds, start, pause_s) for start in starts))

    asyncio.run(all_of_them())
    return heard
