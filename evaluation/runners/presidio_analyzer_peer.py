"""Runs in the environment of Presidio: its pattern recognisers, without a language model.

The models its names and places need are not to be had from a package registry; numbers and
addresses do not need them.
"""

import json
import sys
import time

import spacy
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NlpArtifacts, SpacyNlpEngine


class BlankEngine(SpacyNlpEngine):  # type: ignore[misc]  # no types where we check them
    """SpaCy's tokenizer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.nlp = {"en": spacy.blank("en")}

    def load(self) -> None:
        """Nothing is to be loaded."""

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        """Tokenize."""
        return self._doc_to_nlp_artifact(self.nlp[language](text), language)


def main() -> None:
    """Read texts as JSON lines, write findings and the time they took."""
    texts: list[str] = [json.loads(line) for line in sys.stdin]
    analyzer = AnalyzerEngine(nlp_engine=BlankEngine(), supported_languages=["en"])
    analyzer.analyze("warm up", language="en")
    started_at = time.perf_counter()
    answers = [
        [[one.entity_type, one.start, one.end] for one in analyzer.analyze(text, language="en")]
        for text in texts
    ]
    json.dump({"answers": answers, "seconds": time.perf_counter() - started_at}, sys.stdout)


main()
