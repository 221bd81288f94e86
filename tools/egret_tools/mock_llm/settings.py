"""What the mock provider is started with, read from a JSON file that only its owner can read."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class MockSettings(BaseModel):
    """Ports of 0 are free ones; the ready line says which. Keys are what the provider accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate_chain: Path
    private_key: Path
    openai_key: SecretStr
    anthropic_key: SecretStr
    azure_key: SecretStr
    gemini_key: SecretStr
    bedrock_key: SecretStr
    port: int = Field(default=0, ge=0, le=65535)
    debug_port: int = Field(default=0, ge=0, le=65535)
