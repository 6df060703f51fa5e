"""Ten times as many requests as there is capacity for: honest refusals, bounded memory, and all is well soon after."""

import json
import statistics
import threading
import time

import psutil
import pytest
from handmade_bundle import Served, census, census_bundle, json_rows
from load import Heard, call, request

from mlworkbench.serving.log import read_records

ROWS = 100  # a request, so that the model is what is short, not the socket


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home = tmp_path_factory.mktemp("overload")
    with Served(census_bundle(home / "census", trees=100), home=home, log=home / "log") as served:
        yield served


class Scale:
    """Looks at a process's memory again and again while the block runs."""

    def __init__(self, pid: int):
        self.process, self.stop, self.mb = psutil.Process(pid), threading.Event(), []
        self.thread = threading.Thread(target=self.weigh)

    def weigh(self) -> None:
        while not self.stop.wait(0.2):
            self.mb.append(self.process.memory_info().rss / 2**20)

    def __enter__(self) -> "Scale":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


def recovered_s(port: int, asked: bytes, normal_s: float, within_s: float) -> float:
    """Seconds until the latency of one caller is again what it was, within a factor of three."""
    began, last = time.monotonic(), []
    while time.monotonic() - began < within_s:
        heard = call(port, asked, 0.05)
        assert set(heard.statuses) <= {200}
        last = (last + heard.seconds)[-5:]
        if len(last) == 5 and statistics.median(last) < 3 * normal_s:
            return time.monotonic() - began
    raise AssertionError(f"{within_s} s after the crowd left a request takes {statistics.median(last)} s, before it {normal_s} s")


def test_under_ten_times_the_load_the_service_refuses_honestly_and_is_itself_again_soon(served, size, measured):
    rows = json_rows(census()[0].head(ROWS))
    asked, seconds = request("/predict", json.dumps({"rows": rows}).encode(), {}), size("serving_overload_s")
    (worker,) = served.workers()
    warm = call(served.port, asked, 0.5)
    normal_s = statistics.median(call(served.port, asked, 1.5).seconds)
    able: Heard = call(served.port, asked, 2, callers=16)
    capacity = able.statuses[200] / 2
    crowd = call(served.port, asked, 2, callers=400, rate=10 * capacity)  # four hundred callers have buffers, which are kept
    with Scale(worker) as scale:
        heard = call(served.port, asked, seconds, callers=400, rate=10 * capacity)
    back_s = recovered_s(served.port, asked, normal_s, 5)
    half = len(scale.mb) // 2
    measured(seconds=seconds, capacity_per_s=round(capacity), asked_per_s=round(heard.statuses.total() / seconds),
             answered_per_s=round(heard.statuses[200] / seconds), refused=heard.statuses[503],
             memory_mb=f"{scale.mb[0]:.0f} to {max(scale.mb):.0f}", normal_ms=round(normal_s * 1000, 1),
             recovered_s=round(back_s, 2))
    assert set(heard.statuses) == {200, 503} and heard.impolite == 0
    assert heard.statuses[503] > heard.statuses[200] > 0
    assert max(scale.mb[half:]) - max(scale.mb[:half]) < 32 and max(scale.mb) - scale.mb[0] < 400
    assert served.workers() == [worker]
    logged = sum(1 for _ in read_records(served.environ["MLW_LOG_DIR"]))
    assert logged >= ROWS * sum(each.statuses[200] for each in (warm, able, crowd, heard))
