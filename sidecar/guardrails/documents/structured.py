"""Guardrails that judge structured answers, as a policy document writes them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from typing_extensions import override

from sidecar.domain.local_guardrails import AnswerPart, JsonSchemaSettings
from sidecar.domain.policy import Action, Stage
from sidecar.guardrails.documents.fields import MAX_ITEMS, ActionOnAll, GuardrailFields, Term


def _answers_alone(value: Stage) -> Stage:
    if value is not Stage.OUTPUT:
        raise ValueError("judges answers alone; use output, or leave it out")
    return value


class JsonSchemaDocument(GuardrailFields):
    """Settings of `json_schema`."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    stage: Annotated[Stage, AfterValidator(_answers_alone)] = Stage.OUTPUT
    action: ActionOnAll = Action.BLOCK
    of: AnswerPart = AnswerPart.CONTENT
    tools: Annotated[tuple[Term, ...] | None, Field(min_length=1, max_length=MAX_ITEMS)] = None
    max_bytes: Annotated[int, Field(strict=True, ge=1, le=262_144)] = 65_536
    max_depth: Annotated[int, Field(strict=True, ge=1, le=100)] = 32
    answer_schema: Annotated[dict[str, Any], Field(alias="schema")]

    @model_validator(mode="after")
    def _tools_have_arguments(self) -> Self:
        if self.tools is not None and self.of is not AnswerPart.ARGUMENTS:
            raise ValueError("has `tools`, which go with `of: arguments`")
        return self

    @override
    def settings(self) -> JsonSchemaSettings:
        return JsonSchemaSettings(
            schema=json.dumps(self.answer_schema, ensure_ascii=False),
            of=self.of,
            tools=self.tools,
            max_bytes=self.max_bytes,
            max_depth=self.max_depth,
        )
