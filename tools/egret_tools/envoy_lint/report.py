"""Findings as SARIF, and as changes of the text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from egret_tools.envoy_lint.rule import Finding, Severity
from egret_tools.envoy_lint.rules import ALL_RULES
from sidecar import __version__


def fixable(finding: Finding) -> bool:
    """Return whether `fixed` would change it: a value is known and the text has one."""
    node = finding.hit.node
    is_scalar = not isinstance(node.source.value_at(node.path), (dict, list))
    is_in_text = node.is_written and node.mark.end > node.mark.start
    return finding.hit.replacement is not None and is_in_text and is_scalar


def fixed(text: str, findings: Iterable[Finding]) -> str:
    """Return *text* with every fixable finding fixed; all else stays byte for byte."""
    edits = {
        (finding.hit.node.mark.start, finding.hit.node.mark.end): finding.hit.replacement or ""
        for finding in findings
        if fixable(finding)
    }
    for (start, end), replacement in sorted(edits.items(), reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


SCHEMA_URI: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "note"}


def sarif(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return one run with all rules and these findings."""
    driver = {
        "name": "egret lint",
        "version": __version__,
        "rules": [
            {
                "id": rule.id,
                "name": rule.name,
                "shortDescription": {"text": rule.risk},
                "help": {"text": rule.hint},
                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
            }
            for rule in ALL_RULES
        ],
    }
    results = [_result(finding) for finding in findings]
    return {
        "$schema": SCHEMA_URI,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _result(finding: Finding) -> dict[str, Any]:
    mark = finding.hit.node.mark
    return {
        "ruleId": finding.rule.id,
        "level": _LEVELS[finding.rule.severity],
        "message": {"text": f"{finding.message}. Fix: {finding.hint}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": finding.hit.node.source.name},
                    "region": {"startLine": mark.line, "startColumn": mark.column},
                }
            }
        ],
    }
