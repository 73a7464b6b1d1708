"""What several verbs take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def tracking_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--tracking, of MLflow."""
    return click.option(
        "--tracking",
        default="sqlite:///var/mlflow.db",
        show_default=True,
        metavar="URL",
        help="MLflow's store or server.",
    )(command)
