"""What CI can measure without downloads: our own attacks and harmless texts, judged for real."""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

import evaluation
from evaluation.code_chunks import code_chunks
from evaluation.injection import own_verdicts, trigger_words
from evaluation.intervals import Share
from evaluation.own import OwnDetector
from evaluation.secrets_found import evaluate_code
from evaluation.vendor_tokens import secret_texts
from sidecar.domain.guardrail_settings import SecretTier, Threshold
from training.samples import Label, Sample, Split

HOME = Path(evaluation.__file__).parent


def _share(samples: Sequence[Sample], level: Threshold) -> Share:
    found = own_verdicts(samples, level).found
    return Share(sum(found), len(found))


def test_well_known_attacks_are_found_and_their_words_in_harmless_texts_mostly_not() -> None:
    """A change of phrases, words or model that breaks the guardrail is seen at once."""
    lines = (HOME / "smoke_attacks.txt").read_text(encoding="utf-8").splitlines()
    attacks = [Sample(line, Label.ATTACK, "smoke", Split.TEST) for line in lines if line[0] != "#"]
    harmless = tuple(trigger_words())
    assert _share(attacks, Threshold.LOW).value >= 0.95
    assert _share(attacks, Threshold.MEDIUM).value >= 0.85
    assert _share(harmless, Threshold.MEDIUM).value <= 0.15
    assert _share(harmless, Threshold.HIGH).value == 0


def test_generated_credentials_are_found() -> None:
    """The generator knows lengths and alphabets, and nothing of the rules."""
    detector = OwnDetector("type: secrets")
    found = [bool(detector.judge(one.text).findings) for one in secret_texts()]
    assert Share(sum(found), len(found)).value >= 0.97


def test_code_and_configuration_are_hardly_ever_flagged() -> None:
    """Of the standard library, which holds defaults and examples but no secret."""
    chunks = tuple(code_chunks([Path(sysconfig.get_path("stdlib"))], 250))
    results = evaluate_code(chunks)

    assert len(chunks) == 250
    assert results.share(SecretTier.STRICT).value <= 1 / 200
    assert results.share(SecretTier.LIKELY).value <= 1 / 50
