"""A whole policy document, and the policy it means."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from sidecar.domain.policy import (
    Guardrail,
    Policy,
    StreamMode,
    StreamUsage,
    UnscannedAction,
)
from sidecar.guardrails.documents.fields import (
    MAX_ITEMS,
    Document,
    Glob,
    GuardrailFields,
    PolicyName,
)
from sidecar.guardrails.documents.local import (
    CodeDocument,
    DeniedPatternsDocument,
    DeniedTermsDocument,
    LanguageDocument,
    LocalDocument,
    MaxInputDocument,
    MaxTokensDocument,
    PiiDocument,
    PromptInjectionDocument,
    SecretsDocument,
    ToxicityDocument,
)
from sidecar.guardrails.documents.remote import (
    GrpcDocument,
    LlmJudgeDocument,
    ModerationDocument,
    PresidioDocument,
    RemoteDocument,
    WebhookDocument,
)
from sidecar.guardrails.documents.structured import JsonSchemaDocument
from sidecar.guardrails.rules.catalogue import judges_pieces

GUARDRAIL_DOCUMENTS: Final[dict[str, type[GuardrailFields]]] = {
    "secrets": SecretsDocument,
    "pii": PiiDocument,
    "prompt_injection": PromptInjectionDocument,
    "denied_patterns": DeniedPatternsDocument,
    "denied_terms": DeniedTermsDocument,
    "code": CodeDocument,
    "toxicity": ToxicityDocument,
    "language": LanguageDocument,
    "max_input": MaxInputDocument,
    "max_tokens": MaxTokensDocument,
    "json_schema": JsonSchemaDocument,
    "webhook": WebhookDocument,
    "grpc": GrpcDocument,
    "moderation": ModerationDocument,
    "presidio": PresidioDocument,
    "llm_judge": LlmJudgeDocument,
}
"""The types of guardrails, by their name in a document."""


class UsageDocument(Document):
    """How it becomes known what was used."""

    streams: StreamUsage | None = None


class PolicyModel(Document):
    """A whole document."""

    name: PolicyName
    unscanned: UnscannedAction = UnscannedAction.BLOCK
    allowed_models: Annotated[tuple[Glob, ...] | None, Field(max_length=MAX_ITEMS)] = None
    usage: UsageDocument = UsageDocument()
    guardrails: Annotated[
        tuple[
            Annotated[
                LocalDocument | JsonSchemaDocument | RemoteDocument, Field(discriminator="type")
            ],
            ...,
        ],
        Field(max_length=100),
    ] = ()

    def to_policy(self, *, version: int) -> Policy:
        """Return the domain's value."""
        return Policy(
            name=self.name,
            version=version,
            guardrails=tuple(_guardrail(document) for document in self.guardrails),
            unscanned=self.unscanned,
            allowed_models=self.allowed_models,
            stream_usage=self.usage.streams,
        )


def _guardrail(document: GuardrailFields) -> Guardrail:
    settings = document.settings()
    usual = StreamMode.WINDOW if judges_pieces(settings) else StreamMode.BUFFER
    return Guardrail(
        name=document.name,
        settings=settings,
        stage=document.stage,
        action=document.action,
        mode=document.mode,
        on_error=document.on_error,
        timeout_seconds=document.timeout,
        mandatory=document.mandatory,
        redaction=document.redaction,
        restore=document.restore,
        scope=document.scope(),
        streams=document.streams or usual,
    )
