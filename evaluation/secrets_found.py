"""`secrets` on generated credentials, harmless prompts and code, beside secret scanners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from evaluation.intervals import Share
from evaluation.own import OwnDetector, microseconds_a_kilobyte
from evaluation.peers import NotRun, ask
from evaluation.vendor_tokens import SecretText
from loadtest.results import Grid
from sidecar.domain.guardrail_settings import SecretTier
from sidecar.guardrails.detectors.secrets import tier_of

OWN: Final = "egret"
PEERS: Final = ("kingfisher-secret-scanner", "detect-secrets")


@dataclass(frozen=True, slots=True)
class SecretsResults:
    """Whether each detector found something in each text; first those with a secret."""

    texts: Sequence[SecretText]
    benign: int
    found: dict[str, Sequence[bool]]
    us_per_kb: dict[str, float]
    not_run: dict[str, str]

    def recall(self, name: str) -> Share:
        """Return the share of secrets in whose text *name* found one."""
        found = self.found[name][: len(self.texts)]
        return Share(sum(found), len(found))

    def false_positives(self, name: str) -> Share:
        """Return the share of harmless texts in which *name* found a secret."""
        found = self.found[name][len(self.texts) :]
        return Share(sum(found), len(found))


def evaluate_secrets(
    texts: Sequence[SecretText], benign: Sequence[str], *, peers: bool
) -> SecretsResults:
    """Let Egret and the scanners judge the same texts."""
    everything = [*(one.text for one in texts), *benign]
    detector = OwnDetector("type: secrets")
    found: dict[str, Sequence[bool]] = {
        OWN: [bool(detector.judge(text).findings) for text in everything]
    }
    times = {OWN: microseconds_a_kilobyte(detector.seconds, everything)}
    not_run: dict[str, str] = {}
    for peer in PEERS if peers else ():
        answer = ask(peer, everything)
        if isinstance(answer, NotRun):
            not_run[peer] = answer.why
        else:
            found[peer] = [bool(one) for one in answer.answers]
            times[peer] = microseconds_a_kilobyte(answer.seconds, everything)
    return SecretsResults(texts, len(benign), found, times, not_run)


@dataclass(frozen=True, slots=True)
class CodeResults:
    """Chunks of code with a finding, by the most certain tier of it, and their findings."""

    chunks: int
    flagged: dict[SecretTier, int]
    types: Counter[str]
    us_per_kb: float

    def share(self, tier: SecretTier) -> Share:
        """Return the share of chunks whose most certain finding is of *tier*."""
        return Share(self.flagged[tier], self.chunks)


def evaluate_code(chunks: Sequence[str]) -> CodeResults:
    """Let Egret judge chunks of real code and configuration."""
    detector = OwnDetector("type: secrets")
    flagged, types = dict.fromkeys(SecretTier, 0), Counter[str]()
    for chunk in chunks:
        found = {one.type for one in detector.judge(chunk).findings}
        types.update(found)
        if found:
            tiers = {tier_of(one) for one in found}
            flagged[SecretTier.STRICT if SecretTier.STRICT in tiers else SecretTier.LIKELY] += 1
    return CodeResults(
        len(chunks), flagged, types, microseconds_a_kilobyte(detector.seconds, chunks)
    )


def code_grid(results: CodeResults) -> Grid:
    """Return each tier with its share of chunks, and the types found in them."""
    rows = [
        [tier.value, str(results.flagged[tier]), str(results.share(tier)),
         ", ".join(f"{name} {count}" for name, count in results.types.most_common()
                   if tier_of(name) is tier)]
        for tier in SecretTier
    ]  # fmt: skip
    columns = ("tier", "chunks flagged", f"of {results.chunks:,}", "types, by chunks")
    return Grid("Secrets: chunks of code and configuration", columns, rows)


def code_figures(results: CodeResults) -> dict[str, float]:
    """Return the figures others read."""
    return {f"secrets.code_{tier.value}": results.share(tier).value for tier in SecretTier} | {
        "secrets.code_us_per_kb": results.us_per_kb
    }


def figures(results: SecretsResults) -> dict[str, float]:
    """Return the figures others read."""
    return {
        "secrets.recall": results.recall(OWN).value,
        "secrets.fpr": results.false_positives(OWN).value,
        "secrets.us_per_kb": results.us_per_kb[OWN],
    }


def summary_grid(results: SecretsResults) -> Grid:
    """Return detectors against recall and false positives."""
    rows = [
        [name, str(results.recall(name)), str(results.false_positives(name).count),
         str(results.false_positives(name)), f"{results.us_per_kb[name]:,.0f}"]
        for name in results.found
    ]  # fmt: skip
    rows += [[name, why, "", "", ""] for name, why in results.not_run.items()]
    columns = ("detector", "recall", "harmless texts flagged", f"of {results.benign:,}", "µs/KB")
    return Grid("Secrets: generated credentials, and harmless prompts", columns, rows)


def missed_grid(results: SecretsResults) -> Grid:
    """Return the vendors of which not every credential was found."""
    rows = []
    for vendor in dict.fromkeys(one.vendor for one in results.texts):
        of = [number for number, one in enumerate(results.texts) if one.vendor == vendor]
        counts = {
            name: sum(found[number] for number in of) for name, found in results.found.items()
        }
        if any(count < len(of) for count in counts.values()):
            rows.append([vendor, *(f"{count}/{len(of)}" for count in counts.values())])
    return Grid("Secrets: vendors with misses", ("vendor", *results.found), rows)
