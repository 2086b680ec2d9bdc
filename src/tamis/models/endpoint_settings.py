"""Settings of an endpoint that speaks OpenAI's chat API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Settings that decide no answer, only how many there are.
PATIENCE = (
    "api_key_variable", "timeout_seconds", "max_retries", "backoff_seconds", "requests_per_minute",
    "max_calls", "parallel_calls",
)  # fmt: skip
_OWN_FIELDS = {"model", "messages", "stream"}


class EndpointSettings(BaseModel):
    """Where to ask, how often and how patiently."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    base_url: str | None = None
    """Address up to the version, such as http://127.0.0.1:8000/v1. What is asked is sent there."""
    api_key_variable: str | None = None
    """Environment variable that holds the API key; None sends none."""
    request: Mapping[str, Any] = {"max_tokens": 16, "temperature": 0}
    """Further fields of each request, as the endpoint names them."""
    timeout_seconds: float = Field(60.0, gt=0)
    """Longest wait for one answer."""
    max_retries: int = Field(4, ge=0)
    """Further attempts after one that failed in passing (no connection, 429, 500 and above)."""
    backoff_seconds: float = Field(1.0, ge=0)
    """Pause before the first retry; doubles with each, unless the endpoint names one."""
    requests_per_minute: float | None = Field(None, gt=0)
    """Largest rate of requests, retries included; None sends them as answers come."""
    max_calls: int | None = Field(None, ge=0)
    """Most requests of one run, retries included; what is left then is not asked."""
    parallel_calls: int = Field(4, ge=1)
    """Requests under way at once."""

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://unset")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give an address that starts with http:// or https://")
        if parts.username or parts.password:  # settings are written into manifests
            raise ValueError("leave user and password out; name api_key_variable instead")
        return url

    @field_validator("request")
    @classmethod
    def _own_fields(cls, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if own := sorted(_OWN_FIELDS & set(request)):
            raise ValueError(f"{', '.join(own)} cannot be set here")
        return request
