"""The service of this bundle. `bentoml serve .` runs it; `serving/` beside it is all of its code.

Our own front answers the routes (see serving/service.py); `predict` is declared here as well, so that BentoML's client
and its /schema.json know it. Nothing of the bundle is loaded on import: BentoML imports this file in every process,
and only those that serve make a `Service`.
"""

import time
import uuid
from pathlib import Path
from typing import Any

import bentoml

from serving.application import Application
from serving.connections import guard_connections, leave_connections
from serving.handover import await_handover
from serving.records import write_records
from serving.service import Front, calm_collector

application = Application(Path(__file__).resolve().parent)
write_records(**application.named)  # where a server's logging is set up; nothing elsewhere
# limits on headers that the server lacks; requests come straight to our front, past layers that only slow them down
guard_connections(entrance=lambda: application.front)
await_handover(leave_connections)  # where a launcher has a door that hands over the port; nothing elsewhere


@bentoml.service(
    name=application.settings["name"],
    workers=application.workers,
    # the front limits the time itself and answers before this limit is reached
    traffic={"timeout": application.settings["timeout_s"] + 10},
    # the front counts and traces: BentoML's own would cost more than a quick model's answer
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Service:
    """Predictions of the bundle's model."""

    def __init__(self) -> None:
        application.start()
        calm_collector()

    @bentoml.api
    def predict(
        self, rows: list[dict[str, Any]], on_error: str = "fail", outputs: list[str] | None = None
    ) -> dict[str, Any]:
        """Predict rows, each an object of column to value; `outputs` names what to answer with."""
        application.check_ready()
        return application.answers.predict(rows, on_error, uuid.uuid4().hex, time.perf_counter(), outputs)


Service.add_asgi_middleware(Front, application=application)
