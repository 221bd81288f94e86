"""Names of the fields of answers: which hold the model's words, and which cannot.

What is not named here is text. A field belongs to `SKIPPED` only if neither the model nor whoever
talks to it chooses what stands in it, or if it repeats the request.
"""

from __future__ import annotations

from typing import Final

from sidecar.dialects.fields import FIELD_NAMES
from sidecar.domain.subject import UnscannedReason

SKIPPED: Final = frozenset(
    """
    id object type role created created_at completed_at model model_version modelVersion version
    response_id responseId createTime system_fingerprint service_tier serviceTier status
    finish_reason finishReason native_finish_reason stop_reason stopReason incomplete_details
    item_id call_id tool_use_id tool_call_id toolUseId previous_response_id event_id container_id
    signature thoughtSignature encrypted_content encrypted_index obfuscation p usage usageMetadata
    usage_metadata metrics trace amazon-bedrock-invocationMetrics safetyRatings safety_ratings
    promptFeedback prompt_filter_results content_filter_results logprobs logprobsResult
    instructions tools tool_choice toolConfig metadata user safety_identifier prompt_cache_key
    prompt_cache_retention prompt background store temperature top_p truncation sequence_number
    """.split()  # noqa: SIM905 - a list would be one word a line
)

WHOLE: Final = frozenset(
    """
    name title url uri filename file_id cited_text source code param citations
    annotations annotation citation citationMetadata groundingMetadata groundingChunks
    stop_sequence queries query provider finishMessage media_type mime_type mimeType language
    outcome
    """.split()  # noqa: SIM905 - a list would be one word a line
)
"""Fields that are never sent in pieces, so that what stands in one is judged at once."""

FREE: Final = frozenset({"args", "arguments", "input", "parameters", "action", "json"})
"""Objects whose keys the model chooses: all of them is text, numbers included."""

SEALED: Final = frozenset({"redacted_thinking"})
"""Types of objects that only the provider can read."""

JSON_TEXT: Final = frozenset({"arguments", "partial_json", "input"})
"""Strings that hold JSON text, in which an escape can hide a character."""

PAYLOADS: Final = {
    "data": UnscannedReason.FILE,
    "bytes": UnscannedReason.FILE,
    "b64_json": UnscannedReason.IMAGE,
    "partial_image_b64": UnscannedReason.IMAGE,
    "result": UnscannedReason.IMAGE,
}
"""Where base64 is not text."""

EVENT_PAYLOADS: Final = {
    "chunk": ("bytes", UnscannedReason.FILE),
    "speech.audio.delta": ("audio", UnscannedReason.AUDIO),
    "response.audio.delta": ("delta", UnscannedReason.AUDIO),
    "response.output_audio.delta": ("delta", UnscannedReason.AUDIO),
}
"""By an event's name, its member that is base64 however short, and what it is. A `chunk` is of
Bedrock's InvokeModel, and holds an event of the model's own, which nobody reads here.
"""

MEDIA: Final = {
    "audio": UnscannedReason.AUDIO,
    "image": UnscannedReason.IMAGE,
    "inlineData": UnscannedReason.FILE,
    "inline_data": UnscannedReason.FILE,
    "images": UnscannedReason.IMAGE,
}
"""What a payload is, by the field around it."""

KNOWN: Final = (
    FIELD_NAMES
    | SKIPPED
    | WHOLE
    | FREE
    | JSON_TEXT
    | PAYLOADS.keys()
    | MEDIA.keys()
    | frozenset(
        """
        choices delta candidates parts thought functionCall function_call functionResponse
        executableCode codeExecutionResult output_index content_index summary_index text_offset
        reasoning reasoningContent reasoningText redactedContent content_block contentBlockIndex
        start toolUse thinking transcript tokens token_logprobs sequence_number output_text
        reasoning_text refusal logprobs avgLogprobs tokenCount expires_at parallel_tool_calls
        max_output_tokens max_tool_calls stop_details applied_edits context_management
        error message response item part output reason
        """.split()  # noqa: SIM905 - a list would be one word a line
    )
)
"""Keys that are no text of the model's own. Any other key is judged like a value."""
