"""Reads the constants of a Python file without running it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def constants(path: Path) -> dict[str, Any]:
    """Return the values the module assigns to names, where they are literals."""
    return _assigned(ast.parse(path.read_text(encoding="utf-8")), {})


def class_constants(path: Path, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the literals that each class assigns, with *names* for names inside f-strings."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    known = dict(names) | {
        name: value for name, value in _assigned(module, names).items() if isinstance(value, str)
    }
    return {
        node.name: _assigned(node, known) for node in ast.walk(module)
        if isinstance(node, ast.ClassDef)
    }  # fmt: skip


def _assigned(scope: ast.Module | ast.ClassDef, names: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Name):
            value = _value(node.value, names)
            if value is not None:
                found[target.id] = value
        elif isinstance(node, ast.Call):
            texts = [one for arg in node.args if isinstance(one := _value(arg, names), str)]
            found.setdefault("arguments", []).extend(texts)
    return found


def _value(node: ast.expr, names: Mapping[str, str]) -> object:
    """Return what *node* says, or None where only running it would tell."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.FormattedValue(value=inner):
            return _value(inner, names)
        case ast.Name(id=name):
            return names.get(name)
        case ast.JoinedStr(values=parts):
            return "".join(str(_value(part, names) or "") for part in parts)
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {_value(key, names): _value(value, names) for key, value in pairs if key}
        case _:
            return _sequence(node, names)


def _sequence(node: ast.expr, names: Mapping[str, str]) -> object:
    match node:
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [value for item in items if (value := _value(item, names)) is not None]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _value(left, names), _value(right, names)
            known = isinstance(first, str) and isinstance(second, str)
            return f"{first}{second}" if known else None
        case _:
            return None
