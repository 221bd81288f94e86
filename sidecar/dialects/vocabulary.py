"""Each API's own words: what is no text of a client's own, what is none at all.

Whatever a vocabulary does not name is text, keys included.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, assert_never

from sidecar.dialects import fields
from sidecar.domain.subject import Dialect, UnscannedReason


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the walk over a body needs to know of an API.

    `message_fields` are lists of messages, each with a role; `system_fields` hold text that the
    provider puts before them, or another text in parts; both count within a request as well as at
    its top. Below `free_fields` all names and values are the client's.
    """

    top_fields: frozenset[str]
    field_names: frozenset[str]
    free_fields: frozenset[str]
    part_types: frozenset[str]
    media_fields: dict[str, UnscannedReason]
    pointer_fields: frozenset[str]
    payload_fields: frozenset[str]
    message_fields: frozenset[str]
    system_fields: frozenset[str]
    plain_fields: frozenset[str] = field(init=False)
    media_names: frozenset[str] = field(init=False)
    folded_pointers: frozenset[str] = field(init=False)
    run_fields: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain_fields", self.field_names - self.free_fields)
        names = frozenset(self.media_fields) | {name.casefold() for name in self.media_fields}
        object.__setattr__(self, "media_names", names)
        object.__setattr__(self, "run_fields", self.message_fields | self.system_fields)
        folded = frozenset(name.casefold() for name in self.pointer_fields)
        object.__setattr__(self, "folded_pointers", folded)


COMMON: Final = Vocabulary(
    top_fields=fields.TOP_FIELDS,
    field_names=fields.FIELD_NAMES,
    free_fields=fields.FREE_FIELDS,
    part_types=fields.PART_TYPES,
    media_fields=fields.MEDIA_FIELDS,
    pointer_fields=fields.POINTER_FIELDS,
    payload_fields=fields.PAYLOAD_FIELDS,
    message_fields=frozenset({"messages", "input"}),
    system_fields=frozenset({"system", "instructions", "prediction"}),
)
"""OpenAI, with Azure, and Anthropic: what one means by a name the other means as well."""


def _both_cases(names: str) -> frozenset[str]:
    """Return names as the JSON form of protocol buffers takes them: `topP` and `top_p`."""
    camel = names.split()
    return frozenset(camel) | {re.sub("([A-Z])", r"_\1", name).lower() for name in camel}


_GEMINI_TOP: Final = _both_cases(
    """
    contents content requests model systemInstruction tools toolConfig safetySettings
    generationConfig cachedContent generateContentRequest taskType title outputDimensionality
    serviceTier labels store
    """
)

_GEMINI_FREE: Final = _both_cases(
    "args response parameters parametersJsonSchema responseSchema responseJsonSchema labels"
)

GEMINI: Final = Vocabulary(
    top_fields=_GEMINI_TOP,
    field_names=_GEMINI_TOP
    | _GEMINI_FREE
    | _both_cases(
        """
        parts role text thought thoughtSignature inlineData fileData mimeType data displayName
        fileUri functionCall functionResponse id name executableCode language code
        codeExecutionResult outcome output videoMetadata startOffset endOffset fps
        functionDeclarations description behavior googleSearch googleSearchRetrieval codeExecution
        urlContext functionCallingConfig mode allowedFunctionNames category threshold method
        temperature topP topK candidateCount maxOutputTokens stopSequences responseMimeType
        presencePenalty frequencyPenalty seed responseLogprobs logprobs responseModalities
        speechConfig voiceConfig prebuiltVoiceConfig voiceName languageCode thinkingConfig
        includeThoughts thinkingBudget thinkingLevel mediaResolution imageConfig aspectRatio
        imageSize willContinue scheduling type properties items required enum nullable format
        anyOf propertyOrdering minimum maximum minItems maxItems minLength maxLength pattern
        """
    ),
    free_fields=_GEMINI_FREE,
    part_types=fields.PART_TYPES,
    media_fields=dict.fromkeys(_both_cases("inlineData fileData"), UnscannedReason.FILE),
    pointer_fields=_both_cases("data fileUri"),
    payload_fields=frozenset({"data"}),
    message_fields=frozenset({"contents"}),
    system_fields=_both_cases("systemInstruction content"),
)

_BEDROCK_TOP: Final = fields.TOP_FIELDS | frozenset(
    """
    messages system inferenceConfig toolConfig guardrailConfig additionalModelRequestFields
    additionalModelResponseFieldPaths promptVariables requestMetadata performanceConfig
    serviceTier outputConfig anthropic_version anthropic_beta
    """.split()  # noqa: SIM905 - a list would be one word a line
)

BEDROCK: Final = Vocabulary(
    top_fields=_BEDROCK_TOP,
    field_names=fields.FIELD_NAMES
    | _BEDROCK_TOP
    | frozenset(
        """
        maxTokens topP topK stopSequences tools toolSpec inputSchema json toolChoice auto any tool
        toolUse toolUseId toolResult status image document video audio format source bytes
        s3Location uri bucketOwner context enabled guardContent qualifiers cachePoint
        reasoningContent reasoningText redactedContent signature guardrailIdentifier
        guardrailVersion trace streamProcessingMode latency converse invokeModel body
        """.split()  # noqa: SIM905 - a list would be one word a line
    ),
    free_fields=fields.FREE_FIELDS | {"inputSchema", "json", "requestMetadata"},
    part_types=fields.PART_TYPES | {"default"},
    media_fields=fields.MEDIA_FIELDS | {"source": UnscannedReason.FILE},
    pointer_fields=fields.POINTER_FIELDS | {"bytes", "s3Location", "uri"},
    payload_fields=fields.PAYLOAD_FIELDS | {"bytes"},
    message_fields=frozenset({"messages"}),
    system_fields=frozenset({"system"}),
)
"""Converse, and what InvokeModel passes on: mostly a model's native body, Anthropic's foremost."""


def vocabulary(dialect: Dialect) -> Vocabulary:
    """Return the words of *dialect*."""
    match dialect:
        case Dialect.OPENAI | Dialect.AZURE_OPENAI | Dialect.ANTHROPIC:
            return COMMON
        case Dialect.GEMINI:
            return GEMINI
        case Dialect.BEDROCK:
            return BEDROCK
        case _:
            assert_never(dialect)
