"""The table of settings in docs/deploy.md has every setting with its default."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from pydantic import BaseModel, SecretStr

from sidecar.settings.process import ENV_PREFIX, FORMER_SETTINGS, Settings

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
ROW: Final = re.compile(r"^\| (`EGRET_[^|]+) \| ([^|]+) \|", re.MULTILINE)


def _of_code() -> Iterator[tuple[str, object]]:
    for section, value in Settings.model_construct():
        assert isinstance(value, BaseModel)
        for name, default in type(value)():
            variable = f"{ENV_PREFIX}{section}__{name}".upper()
            if variable not in FORMER_SETTINGS:
                yield variable, default


def _of_page() -> Iterator[tuple[str, str]]:
    for names, defaults in ROW.findall(PAGE.read_text(encoding="utf-8")):
        variables = re.findall(r"`(\w+)`", names)
        told = defaults.split(", ") if ", " in defaults else [defaults] * len(variables)
        yield from zip(variables, told, strict=True)


def _as_told(default: object) -> str:
    match default:
        case None | "" | ():
            return "none"
        case enum.Enum():
            return str(default.value)
        case SecretStr():
            return default.get_secret_value()
        case float():
            return f"{default:g}"
        case _:
            return str(default)


CODE: Final = dict(_of_code())
TOLD: Final = dict(_of_page())


def test_every_setting_has_a_row_and_every_row_is_a_setting() -> None:
    """The page says that these are all."""
    assert sorted(TOLD) == sorted(CODE)


@pytest.mark.parametrize("name", sorted(CODE))
def test_the_default_is_the_one_that_holds(name: str) -> None:
    """In the words of the page: what comes after it in brackets is for readers."""
    told = re.sub(r" \(.*\)$", "", TOLD.get(name, "")).strip("`")
    if re.fullmatch("0[0-7]{3}", told):  # octal, as the program reads it too
        told = str(int(told, 8))

    assert told in {_as_told(CODE[name]), "the system's"}
