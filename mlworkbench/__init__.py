"""From a fitted model to a monitored service, without leaving JupyterLab."""

__version__ = "0.1.0"
