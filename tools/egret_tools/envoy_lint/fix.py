"""Fixes that are safe: the value of a scalar that stands in the text is replaced."""

from __future__ import annotations

from collections.abc import Iterable

from egret_tools.envoy_lint.rule import Finding


def fixable(finding: Finding) -> bool:
    """Return whether `fixed` would change it: a value is known and the text has one."""
    node = finding.hit.node
    is_scalar = not isinstance(node.source.value_at(node.path), (dict, list))
    return finding.hit.replacement is not None and node.is_written and is_scalar


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
