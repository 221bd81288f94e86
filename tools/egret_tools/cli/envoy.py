"""`egret envoy render`: Envoy's configuration from parameters in a file."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Final, get_args, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError

from egret_tools.devstack.envoy_config import (
    EnvoyConfigError,
    EnvoyParameters,
    render_envoy_config,
)
from sidecar.cli.arguments import read_text
from sidecar.cli.terminal import WRONG_USAGE, fail, in_one_line
from sidecar.policy.parse import FaultWords, PolicyDocumentError, PolicyFault, model_faults
from sidecar.policy.yaml_positions import Path, YamlDocument, YamlError, read_yaml

_HINT: Final = "docs/envoy.md lists the parameters"
_MAX_CHARACTERS: Final = 100_000
"""A tenth of a policy's: the parameters have a hundred lines, and are read in two seconds."""

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
        pathlib.Path, typer.Argument(help="The parameters, as YAML; - for standard input.")
    ],
) -> None:
    """Print the configuration of an Envoy with these parameters; nothing is looked up.

    Example: egret envoy render parameters.yaml > envoy.yaml
    """
    text = read_text(parameters, code=WRONG_USAGE)
    try:
        config = render_envoy_config(_parameters(text))
    except (EnvoyConfigError, PolicyDocumentError) as error:
        fail(f"{parameters}: {in_one_line(error)}", hint=_HINT, code=WRONG_USAGE)
    sys.stdout.write(config.strip() + "\n")


def _parameters(text: str) -> EnvoyParameters:
    """Read the one document of *text*, by the rules and in the words of policies.

    Raises:
        PolicyDocumentError: with every fault of it.
    """
    try:
        documents = read_yaml(text.removeprefix("\ufeff"), max_characters=_MAX_CHARACTERS)
    except YamlError as error:
        raise PolicyDocumentError([PolicyFault(*error.mark, "", error.problem)]) from None
    if len(documents) != 1:
        problem = f"one document has the parameters, and there are {len(documents)}"
        raise PolicyDocumentError([PolicyFault(1, 1, "", problem)])
    try:
        # Or a misspelt name would silently leave the default.
        return TypeAdapter(EnvoyParameters).validate_python(documents[0].value, extra="forbid")
    except ValidationError as error:
        faults = model_faults(documents[0], error, vocabulary=_WORDS)
        raise PolicyDocumentError(faults) from None


def _fields_at(_: YamlDocument, path: Path) -> Iterable[str]:
    """Return the parameters that a mapping at *path* can have."""
    kind: Any = EnvoyParameters
    for step in path:
        if isinstance(step, str):
            kind = get_type_hints(kind)[step]
            kind = next(one for one in (kind, *get_args(kind)) if is_dataclass(one))
    return (one.name for one in fields(kind))


_WORDS: Final = FaultWords(_fields_at, lambda _: "write {parameter: value}")
