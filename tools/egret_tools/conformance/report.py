"""Results as JUnit XML and as SARIF. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree as ET

from egret_tools.conformance.causes import cause_of, unserved_sentence
from egret_tools.conformance.suite import Result
from sidecar import __version__

_SCHEMA_URI: Final = "https://json.schemastore.org/sarif-2.1.0.json"
Diagnoses = Mapping[str, str | None]
"""What is wrong with each mode that the server does not serve."""


def junit(results: Sequence[Result], diagnoses: Diagnoses) -> str:
    """Return a test suite for each mode and a test for each run."""
    root = ET.Element("testsuites", name="egret conformance")
    for mode in dict.fromkeys(one.run.mode for one in results):
        of_mode = [one for one in results if one.run.mode == mode]
        suite = ET.SubElement(
            root, "testsuite", name=mode, tests=str(len(of_mode)),
            failures=str(sum(bool(one.differences) for one in of_mode)),
            skipped=str(sum(not one.was_run for one in of_mode)),
            time=f"{sum(one.milliseconds for one in of_mode) / 1000:.3f}",
        )  # fmt: skip
        for one in of_mode:
            _add_case(suite, one, diagnoses)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True)


def _add_case(suite: ET.Element, one: Result, diagnoses: Diagnoses) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=f"conformance.{one.run.mode}",
        name=f"{one.run.case.name} ({one.run.protocol.value})",
        time=f"{one.milliseconds / 1000:.3f}",
    )  # fmt: skip
    if not one.was_run:
        sentence = unserved_sentence(one.run.mode, diagnoses.get(one.run.mode))
        ET.SubElement(case, "skipped", message=sentence)
    elif one.differences:
        cause = cause_of(one)
        failure = ET.SubElement(case, "failure", message=cause.sentence, type=cause.id)
        failure.text = "\n".join(map(_printable, one.differences))


def _printable(line: str) -> str:
    """Replace characters that XML does not allow."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def sarif(results: Iterable[Result], diagnoses: Diagnoses) -> dict[str, Any]:
    """Return a result for each difference, and one for each mode that is not served."""
    rules: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    for mode, diagnosis in diagnoses.items():
        rules["mode-not-served"] = "the server does not serve this mode"
        sentence = unserved_sentence(mode, diagnosis)
        found.append(_sarif_result("mode-not-served", sentence, f"{mode}"))
    for one in results:
        if one.differences and one.run.mode not in diagnoses:
            cause = cause_of(one)
            rules[cause.id] = cause.sentence
            name = f"{one.run.mode}/{one.run.case.name}/{one.run.protocol.value}"
            text = f"{cause.sentence}: {'; '.join(one.differences)}"
            found.append(_sarif_result(cause.id, text, name))
    listed = [{"id": key, "shortDescription": {"text": text}} for key, text in rules.items()]
    driver = {"name": "egret conformance", "version": __version__, "rules": listed}
    runs = [{"tool": {"driver": driver}, "results": found}]
    return {"$schema": _SCHEMA_URI, "version": "2.1.0", "runs": runs}


def _sarif_result(rule: str, text: str, name: str) -> dict[str, Any]:
    place = {"logicalLocations": [{"fullyQualifiedName": name, "kind": "test"}]}
    return {
        "ruleId": rule,
        "level": "error",
        "message": {"text": text},
        "locations": [place],
        "partialFingerprints": {"conformanceRun/v1": name},
    }
