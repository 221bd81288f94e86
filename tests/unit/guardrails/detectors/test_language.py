# ruff: noqa: RUF001 - sentences in other scripts are what is tested
from __future__ import annotations

import sys
from random import Random

import pytest
from egret_tools.benign_text import benign_text
from py3langid import langid

from sidecar.domain.finding import Finding
from sidecar.guardrails.detectors import language
from tests.support.guardrails import effective, parts_of, policy

FOREIGN = {
    "de": "Bitte fassen Sie die folgenden Notizen in drei kurzen Punkten zusammen.",
    "fr": "Veuillez résumer les notes de réunion suivantes en trois points courts.",
    "es": "Por favor, resume las siguientes notas de la reunión en tres puntos breves.",
    "pl": "Proszę streścić poniższe notatki ze spotkania w trzech krótkich punktach.",
    "ru": "Пожалуйста, кратко изложите следующие заметки о встрече.",
    "zh": "请用三个简短的要点为团队总结以下会议记录和行动项目。",
    "ja": "次の会議メモをチームのために三つの短い要点にまとめてください。",
    "ar": "يرجى تلخيص ملاحظات الاجتماع التالية في ثلاث نقاط قصيرة للفريق.",
    "tr": "Lütfen aşağıdaki toplantı notlarını ekip için üç kısa maddede özetleyin.",
}
PASSED = {
    "english": benign_text(4_000),
    "code": "def f(x):\n    return [i for i in range(x) if i % 2]\n\nimport os\nprint(os)\n",
    "query": "SELECT a, b FROM t WHERE x = 1 AND y IN (1, 2, 3) ORDER BY z;",
    "json": '{"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}',
    "names": "My name is François Müller and I live in Düsseldorf near the Königsallee.",
    "quotation": "Translate 'guten Morgen' and 'wie geht es' to English please, with examples.",
    "numbers": "12345 67890 4711 0815 " * 20,
    "short": "Guten Tag",
}


def judged(text: str, *allowed: str) -> tuple[tuple[Finding, ...], str | None]:
    languages = ", ".join(f"'{one}'" for one in allowed)
    guardrail = f"  - {{name: ours, type: language, allowed: [{languages}]}}"
    (outcome,) = effective(policy(guardrail)).local.scan(parts_of([text]))
    return outcome.findings, outcome.failure and outcome.failure.error_type


@pytest.mark.parametrize("own", FOREIGN)
def test_a_sentence_in_another_language_is_found_and_in_an_allowed_one_passes(own: str) -> None:
    """One sentence is enough to tell."""
    text = FOREIGN[own]
    whole = Finding("ours", "LANGUAGE", 0, 0, len(text.encode()))
    assert judged(text, "en") == ((whole,), None)
    assert judged(text, "en", own) == ((), None)


@pytest.mark.parametrize("case", PASSED)
def test_what_cannot_be_told_passes(case: str) -> None:
    """Code, numbers, names, quotations and a word or two are of no language."""
    assert judged(PASSED[case], "en") == ((), None)


def test_a_quotation_in_the_middle_passes_and_figures_there_hide_nothing() -> None:
    """The middle of a window is judged first, and decides only if it is in an allowed language."""
    english, german = benign_text(400), " ".join(3 * [FOREIGN["de"]])
    assert judged(f"{english} {german} {english}", "en") == ((), None)
    assert judged(f"{german} {'4711 ' * 60} {german}", "en") != ((), None)


@pytest.mark.parametrize("own", FOREIGN)
@pytest.mark.parametrize("length", [250, 400])
def test_a_long_text_in_another_language_is_found(own: str, length: int) -> None:
    text = (FOREIGN[own] + " ") * (1 + length // len(FOREIGN[own]))
    assert judged(text, "en") != ((), None)
    assert judged(text, "en", own) == ((), None)


@pytest.mark.parametrize("before", [3_000, 60_000])
def test_a_long_text_is_looked_at_throughout(before: int) -> None:
    """English in front does not hide what follows."""
    text = benign_text(before) + " ".join(FOREIGN["de"] for _ in range(before // 20))
    assert judged(text, "en") != ((), None)


@pytest.mark.parametrize("own", ["en", "zh"])
def test_windows_have_as_many_characters_in_every_script(own: str) -> None:
    """Words across two of them are in the middle of neither, however many bytes a letter has."""
    text = 120 * FOREIGN[own] if own != "en" else benign_text(3_000)
    arabic = (12 * FOREIGN["ar"])[:700]
    assert judged(text[:650] + arabic + text[1_350:2_600], own) == ((), None)


def test_a_foreign_text_is_found_behind_many_others() -> None:
    """Windows of all texts are judged together, some at a time; each text is its own finding."""
    own = [benign_text(900, seed=seed) for seed in range(language.WINDOWS_AT_ONCE)]
    texts = [*own, FOREIGN["de"], *own, 3 * FOREIGN["fr"], *own]
    (outcome,) = effective(policy("  - {name: ours, type: language, allowed: [en]}")).local.scan(
        parts_of(texts)
    )
    assert [found.part for found in outcome.findings] == [len(own), 2 * len(own) + 1]


@pytest.mark.parametrize("length", [40, 160, 1_000])
def test_texts_judged_together_have_the_scores_that_the_library_gives_to_each(
    length: int,
) -> None:
    """Long texts are read in pieces: no feature is lost or made where two of them meet."""
    random = Random(length)  # noqa: S311 - no secret
    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    known = " ".join([*FOREIGN.values(), *PASSED.values()])
    model = language.LanguageModel()
    for count in (1, 2, 9, 60):
        starts = [random.randrange(len(known)) for _ in range(count)]
        texts = [known[start : start + random.randrange(1, length)] for start in starts]
        texts += [texts[0].upper(), "", "\x00\x01", "\ud800 \U0010ffff"]
        for text, scores in zip(texts, model.scores(texts), strict=True):
            expected = library._raw_score(library._encode(text))
            if expected.max() == langid.RAW_FLOOR:  # no feature
                expected[:] = 0
            assert scores == pytest.approx(expected, rel=1e-4)


def test_without_the_model_nothing_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guardrail fails, in the direction of `on_error`; text without letters still passes."""
    monkeypatch.setitem(sys.modules, "py3langid", None)
    language._model.cache_clear()
    try:
        assert judged("12345", "en") == ((), None)
        assert judged(FOREIGN["de"], "en") == ((), "ModelMissingError")
    finally:
        language._model.cache_clear()
