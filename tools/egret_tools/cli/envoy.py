"""`egret envoy render`: Envoy's configuration from parameters in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from egret_tools.devstack.envoy_config import (
    EnvoyConfigError,
    EnvoyParameters,
    render_envoy_config,
)
from sidecar.cli.arguments import read_text
from sidecar.cli.terminal import WRONG_USAGE, fail

_HINT: Final = "docs/envoy.md lists the parameters"

envoy = typer.Typer(
    help="Envoy's configuration, from the template that Egret is tested with.",
    no_args_is_help=True,
)


@envoy.callback()
def _envoy() -> None:
    """Make a group of the one command."""


@envoy.command("render")
def render(
    parameters: Annotated[
        Path, typer.Argument(help="The parameters, as YAML; - for standard input.")
    ],
) -> None:
    """Print the configuration of an Envoy with these parameters; nothing is looked up.

    Example: egret envoy render parameters.yaml > envoy.yaml
    """
    text = read_text(parameters, code=WRONG_USAGE)
    try:
        config = render_envoy_config(_parameters(text))
    except yaml.YAMLError as error:
        fail(f"{parameters} is no YAML: {error}", hint=_HINT, code=WRONG_USAGE)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}"
            for one in error.errors(include_url=False)
        )
        fail(f"{parameters}: {wrong}", hint=_HINT, code=WRONG_USAGE)
    except EnvoyConfigError as error:
        fail(f"{parameters}: {error}", hint=_HINT, code=WRONG_USAGE)
    sys.stdout.write(config.strip() + "\n")


def _parameters(text: str) -> EnvoyParameters:
    read: Any = yaml.safe_load(text)
    # Or a misspelt name would silently leave the default.
    return TypeAdapter(EnvoyParameters).validate_python(read, extra="forbid")
