"""`egret lint`: checks Envoy configurations."""

from __future__ import annotations

import difflib
import enum
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Final, assert_never

import typer

from egret_tools.envoy_lint.config import EnvoyVersion
from egret_tools.envoy_lint.lint import Known, Linted
from egret_tools.envoy_lint.lint import lint as lint_text
from egret_tools.envoy_lint.report import fixable, fixed, sarif
from egret_tools.envoy_lint.rule import Finding, Severity
from egret_tools.envoy_lint.rules import ALL_RULES
from egret_tools.envoy_lint.source import SourceError, TemplateError
from sidecar.cli.arguments import STANDARD_STREAM, read_text, replace_file
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Row,
    console,
    counted,
    fail,
    note,
    print_json,
    print_rows,
)
from sidecar.cli.terminal import Output as Rows

_COLUMNS: Final = ("place", "rule", "severity", "risk", "hint")
_TABLE_COLUMNS: Final = 120
"""Below this a table would cut file and line."""
_ORDER: Final = (Severity.NOTE, Severity.WARNING, Severity.ERROR)


class LintOutput(enum.Enum):
    """For people and editors, for wide terminals, for programs, or for a code host."""

    TEXT = "text"
    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"


def _version(text: str) -> EnvoyVersion:
    """Read 1.38 or 1.38.3."""
    major, _, rest = text.removeprefix("v").partition(".")
    minor = rest.partition(".")[0]
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise typer.BadParameter("a version is written 1.38 or 1.38.3")
    return EnvoyVersion(int(major), int(minor))


def lint(  # noqa: PLR0913, PLR0917 - one option each
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Configuration, config dump or gateway resource; - for standard input."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Cluster of Egret's workers; by default egret, or those that ext_proc calls.",
        ),
    ] = None,
    envoy: Annotated[
        EnvoyVersion | None,
        typer.Option(
            "--envoy",
            parser=_version,
            metavar="VERSION",
            help="Version that runs this, such as 1.38; a config dump says it itself.",
        ),
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write safe fixes back to the files.")
    ] = False,
    fail_on: Annotated[
        Severity, typer.Option("--fail-on", help="Exit with 1 from this severity on.")
    ] = Severity.WARNING,
    allow_unchecked: Annotated[
        bool,
        typer.Option("--allow-unchecked", help="Exit with 0 although parts were not checked."),
    ] = False,
    list_rules: Annotated[bool, typer.Option("--rules", help="List all rules and exit.")] = False,
    output: Annotated[LintOutput, typer.Option("--output", "-o")] = LintOutput.TEXT,
) -> None:
    """Check an Envoy configuration for settings that let requests pass, leak or fail.

    Reads a static configuration (also in a ConfigMap), a config dump, an EnvoyExtensionPolicy,
    EnvoyPatchPolicy or EnvoyFilter, as YAML or JSON, and names each part that it does not check.
    A comment `# egret-lint: ignore=EGR123 why` silences a rule on
    its line, or on the next one where it stands alone.

    Example: egret lint envoy.yaml --fix
    """
    if list_rules:
        print_rows([_rule_row(index) for index in range(len(ALL_RULES))],
                   columns=("rule", "name", "severity", "risk", "hint"),
                   output=Rows.JSON if output is LintOutput.JSON else Rows.TABLE)  # fmt: skip
        return
    if not files:
        fail("no file is given", hint="name one, or - for standard input", code=WRONG_USAGE)
    known = Known(cluster, envoy)
    found = [_lint_file(path, known=known, fix=fix) for path in files]
    read = [linted for linted in found if linted is not None]
    _print([one for linted in read for one in (*linted.findings, *linted.unchecked)], output)
    code = _conclude(read, fail_on, allow_unchecked=allow_unchecked)
    raise typer.Exit(code if len(read) == len(found) else WRONG_USAGE)


def _lint_file(path: Path, *, known: Known, fix: bool) -> Linted | None:
    """Return the result, None for a file that is neither YAML nor JSON; others are linted on."""
    text = read_text(path, code=WRONG_USAGE)
    try:
        linted = lint_text(str(path), text, known=known)
    except TemplateError as error:
        note(f"error: {error}; render it first, then check the result")
        return None
    except SourceError as error:
        note(f"error: {error}; correct the file")
        return None
    for name in linted.assumed:
        note(f"{path}: ext_proc calls cluster `{name}`, which is taken for Egret (or: --cluster)")
    if not fix or path == STANDARD_STREAM:
        return linted
    repaired = fixed(text, linted.findings)
    if repaired != text:
        console(stderr=True).print(_diff(path, text, repaired), end="")
        replace_file(path, repaired, hint="free space, or name a place to write to")
    return lint_text(str(path), repaired, known=known)


def _diff(path: Path, before: str, after: str) -> str:
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), str(path), str(path)
    )
    return "".join(lines)


def _print(findings: list[Finding], output: LintOutput) -> None:
    rows = [_row(finding) for finding in findings]
    match output:
        case LintOutput.TABLE if rows and console().width >= _TABLE_COLUMNS:
            print_rows(rows, columns=_COLUMNS, output=Rows.TABLE)
        case LintOutput.TEXT | LintOutput.TABLE:
            # Editors and CI read a pipe line by line.
            width = console().width if sys.stdout.isatty() else None
            for row in rows:
                typer.echo(_line(row) if width is None else _wrapped(_line(row), width))
        case LintOutput.JSON:
            print_json(rows)
        case LintOutput.SARIF:
            print_json(sarif(findings))
        case _:
            assert_never(output)


def _line(row: Row) -> str:
    """Return a finding as compilers print them, so that editors find the place."""
    text = "{place}: {severity} {rule} {risk} (fix: {hint})".format_map(row)
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(
        line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def _row(finding: Finding) -> Row:
    mark = finding.hit.node.mark
    return {
        "place": f"{finding.hit.node.source.name}:{mark.line}:{mark.column}",
        "file": finding.hit.node.source.name,
        "line": mark.line,
        "column": mark.column,
        "rule": finding.rule.id,
        "name": finding.rule.name,
        "severity": finding.rule.severity.value,
        "risk": finding.message,
        "hint": finding.hint,
        "mend": finding.hint,  # the former name, for one more version
        "fixable": fixable(finding),
    }


def _rule_row(index: int) -> Row:
    rule = ALL_RULES[index]
    return {
        "rule": rule.id,
        "name": rule.name,
        "severity": rule.severity.value,
        "risk": rule.risk,
        "hint": rule.hint,
        "mend": rule.hint,  # the former name, for one more version
    }


def _conclude(found: list[Linted], fail_on: Severity, *, allow_unchecked: bool) -> int:
    """Print the counts and return the exit code."""
    severities = [finding.rule.severity for linted in found for finding in linted.findings]
    counts = [counted(severities.count(one), one.value) for one in reversed(_ORDER)]
    silenced = sum(len(linted.suppressed) for linted in found)
    unchecked = sum(len(linted.unchecked) for linted in found)
    rest = f", {unchecked} not checked" if unchecked else ""
    if plain := sum(linted.without_envoy for linted in found):
        rest += f", {counted(plain, 'resource')} without Envoy configuration"
    note(f"{', '.join(counts)}, {silenced} suppressed{rest}")
    is_bad = any(_ORDER.index(one) >= _ORDER.index(fail_on) for one in severities)
    return FAILED if is_bad or (unchecked and not allow_unchecked) else 0
