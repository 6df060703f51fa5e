"""From a fitted model to a monitored service, without leaving JupyterLab.

Importing it loads nothing heavy: each public name is fetched from its room when it is first used.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mlworkbench.app.workbench import Workbench
    from mlworkbench.bundling.build import Bundle, build_bundle
    from mlworkbench.containers.image import Image, containerize
    from mlworkbench.core.errors import (
        Cancelled,
        GateFailed,
        InputError,
        MissingPart,
        NotFound,
        WorkbenchError,
    )
    from mlworkbench.deployment.advise import Advice, advise
    from mlworkbench.deployment.deploy import Deployment, deploy, find_deployment
    from mlworkbench.deployment.plan import DeploymentPlan, plan_deployment
    from mlworkbench.deployment.score import Scoring, score
    from mlworkbench.deployment.trace import Trace, trace
    from mlworkbench.evaluation.evaluate import evaluate
    from mlworkbench.evaluation.result import Evaluation
    from mlworkbench.model.loading import Model, load_model, save_model
    from mlworkbench.monitoring.monitor import MonitoringReport, monitor

# public name to the module that has it
_PUBLIC = {
    "Advice": "deployment.advise",
    "Bundle": "bundling.build",
    "Cancelled": "core.errors",
    "Deployment": "deployment.deploy",
    "DeploymentPlan": "deployment.plan",
    "Evaluation": "evaluation.result",
    "GateFailed": "core.errors",
    "Image": "containers.image",
    "InputError": "core.errors",
    "MissingPart": "core.errors",
    "Model": "model.loading",
    "MonitoringReport": "monitoring.monitor",
    "NotFound": "core.errors",
    "Scoring": "deployment.score",
    "Trace": "deployment.trace",
    "Workbench": "app.workbench",
    "WorkbenchError": "core.errors",
    "advise": "deployment.advise",
    "build_bundle": "bundling.build",
    "containerize": "containers.image",
    "deploy": "deployment.deploy",
    "evaluate": "evaluation.evaluate",
    "find_deployment": "deployment.deploy",
    "load_model": "model.loading",
    "monitor": "monitoring.monitor",
    "plan_deployment": "deployment.plan",
    "save_model": "model.loading",
    "score": "deployment.score",
    "trace": "deployment.trace",
}

__all__ = [
    "Advice",
    "Bundle",
    "Cancelled",
    "Deployment",
    "DeploymentPlan",
    "Evaluation",
    "GateFailed",
    "Image",
    "InputError",
    "MissingPart",
    "Model",
    "MonitoringReport",
    "NotFound",
    "Scoring",
    "Trace",
    "Workbench",
    "WorkbenchError",
    "advise",
    "build_bundle",
    "containerize",
    "deploy",
    "evaluate",
    "find_deployment",
    "load_model",
    "monitor",
    "plan_deployment",
    "save_model",
    "score",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mlworkbench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mlworkbench.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
