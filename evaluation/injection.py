"""`prompt_injection` beside other detectors, on published sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from evaluation.held_out import Judgement
from evaluation.intervals import Share
from evaluation.own import OwnDetector, microseconds_a_kilobyte
from evaluation.peers import NotRun, ask
from loadtest.results import Grid
from sidecar.domain.guardrail_settings import Threshold
from training.samples import Label, Sample, Split

OWN: Final = "egret"
PEERS: Final = ("prompt-guardrail", "llm_guardrail")
NEEDS_WEIGHTS: Final = ("llm-guard", "its models come from a hub, which is no package registry")
TRIGGERS: Final = "trigger-words"
DIRECT: Final = frozenset({Label.OVERRIDE, Label.JAILBREAK})
_WORDS_FILE: Final = Path(__file__).with_name("trigger_words.txt")


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What one detector said: whether it found something, and its score, text by text."""

    found: Sequence[bool]
    scores: Sequence[float]
    us_per_kb: float


@dataclass(frozen=True, slots=True)
class InjectionResults:
    """Samples, what every detector said of them, and why some detectors said nothing."""

    samples: Sequence[Sample]
    verdicts: Mapping[str, Verdicts]
    not_run: Mapping[str, str]


def trigger_words() -> Iterator[Sample]:
    """Return harmless texts with the words of attacks, written for this test."""
    for line in _WORDS_FILE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield Sample(line, Label.BENIGN, TRIGGERS, Split.TEST)


def evaluate_injection(judged: Sequence[Judgement], *, peers: bool) -> InjectionResults:
    """Let every peer judge the texts that Egret was tested on, and measure the time of each."""
    samples = [one.sample for one in judged]
    texts = [sample.text for sample in samples]
    detector = OwnDetector("type: prompt_injection")
    for sample in samples:
        detector.judge(sample.text, role=sample.role)
    cost = microseconds_a_kilobyte(detector.seconds, texts)
    scores = [one.score for one in judged]
    verdicts = {
        f"{OWN} {level.value}": Verdicts([level in one.levels for one in judged], scores, cost)
        for level in Threshold
    }
    not_run = dict([NEEDS_WEIGHTS])
    for peer in PEERS if peers else ():
        answer = ask(peer, texts)
        if isinstance(answer, NotRun):
            not_run[peer] = answer.why
            continue
        found, peer_scores = zip(*answer.answers, strict=True)
        verdicts[peer] = Verdicts(
            found, peer_scores, microseconds_a_kilobyte(answer.seconds, texts)
        )
    return InjectionResults(samples, verdicts, not_run)


def own_verdicts(samples: Sequence[Sample], level: Threshold) -> Verdicts:
    """Judge by a policy of this threshold, for users and for tools alike."""
    detector = OwnDetector(f"type: prompt_injection, threshold: {level.value}")
    judged = [detector.judge(sample.text, role=sample.role) for sample in samples]
    return Verdicts(
        [bool(one.findings) for one in judged],
        [one.score for one in judged],
        microseconds_a_kilobyte(detector.seconds, [sample.text for sample in samples]),
    )


def share(results: InjectionResults, detector: str, which: Callable[[Sample], bool]) -> Share:
    """Return the share of texts in which *detector* found something."""
    found = results.verdicts[detector].found
    chosen = [one for sample, one in zip(results.samples, found, strict=True) if which(sample)]
    return Share(sum(chosen), len(chosen))


def is_direct_attack(sample: Sample) -> bool:
    """Tell a user's override or jailbreak."""
    return sample.label in DIRECT and sample.role == "user"


def is_other_attack(sample: Sample) -> bool:
    """Tell any other attack: in tool results, extraction, encoded, of no kind of ours."""
    return sample.is_attack and not is_direct_attack(sample)


def is_benign(sample: Sample) -> bool:
    """Tell a harmless text of a user or tool, but for those made of trigger words."""
    return not sample.is_attack and sample.role != "system" and sample.source != TRIGGERS


def is_system(sample: Sample) -> bool:
    """Tell a harmless system prompt."""
    return sample.role == "system"


def is_trigger(sample: Sample) -> bool:
    """Tell our own harmless texts."""
    return sample.source == TRIGGERS


def figures(results: InjectionResults) -> dict[str, float]:
    """Return the figures others read, at the threshold `medium`, and those by source."""
    name = f"{OWN} {Threshold.MEDIUM.value}"
    own = {
        "prompt_injection.recall": share(results, name, is_direct_attack).value,
        "prompt_injection.fpr": share(results, name, is_benign).value,
        "prompt_injection.fpr_system_prompts": share(results, name, is_system).value,
        "prompt_injection.fpr_trigger_words": share(results, name, is_trigger).value,
        "prompt_injection.recall_other_attacks": share(results, name, is_other_attack).value,
        "prompt_injection.us_per_kb": results.verdicts[name].us_per_kb,
    }
    for source, is_attack in _sources(results):
        kind = "recall" if is_attack else "fpr"
        value = share(results, name, _of(source, is_attack=is_attack)).value
        own[f"prompt_injection.{source}.{kind}"] = value
    return own


def summary_grid(results: InjectionResults) -> Grid:
    """Return detectors against what they found."""
    columns = ("detector", "overrides, jailbreaks", "other attacks", "FPR harmless",
               "FPR trigger words", "FPR system prompts", "µs/KB")  # fmt: skip
    kinds = (is_direct_attack, is_other_attack, is_benign, is_trigger, is_system)
    rows = [
        [name, *(str(share(results, name, kind)) for kind in kinds), f"{one.us_per_kb:,.0f}"]
        for name, one in results.verdicts.items()
    ]
    rows += [[name, why, "", "", "", "", ""] for name, why in results.not_run.items()]
    return Grid("Prompt injection: share of texts found, with 95 % intervals", columns, rows)


def source_grid(results: InjectionResults, *, attacks: bool) -> Grid:
    """Return sources against detectors."""
    names = list(results.verdicts)
    rows = []
    for source, is_attack in _sources(results):
        if is_attack is attacks:
            which = _of(source, is_attack=is_attack)
            shares = [share(results, name, which) for name in names]
            rows.append([source, str(shares[0].total), *map(str, shares)])
    title = "Attacks found, by source" if attacks else "Harmless texts flagged, by source"
    return Grid(f"Prompt injection: {title}", ("source", "texts", *names), rows)


def _sources(results: InjectionResults) -> list[tuple[str, bool]]:
    return sorted({(sample.source, sample.is_attack) for sample in results.samples})


def _of(source: str, *, is_attack: bool) -> Callable[[Sample], bool]:
    return lambda sample: sample.source == source and sample.is_attack is is_attack
