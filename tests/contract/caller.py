"""An application that speaks through the official SDKs, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.contract.recording import Kind
from tests.contract.view import View, anthropic_message, of_anthropic, of_openai, openai_completion

__all__ = ["COOKIE", "ORGANIZATION", "Answer", "Caller"]

COOKIE = "session=caller-cookie-54321"
ORGANIZATION = "org-of-the-caller"

ENDPOINTS: dict[Kind, str] = {
    "openai-chat": "/chat/completions",
    "anthropic": "/v1/messages",
    "count-tokens": "/v1/messages/count_tokens",
}


@dataclass(slots=True)
class Answer:
    """What the SDK made of an answer.

    Attributes:
        status: The HTTP status, 0 when there was no answer.
        whole, events: The parsed answer, or its parsed events; as plain dictionaries, members that the SDK has no type for
            included.
        error: The class of the SDK's exception, and what it read from the error's body.
        headers: Names in lower case.
    """

    kind: Kind
    status: int = 0
    whole: Any = None
    events: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    error_body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def view(self) -> View:
        """What it says."""
        if self.kind == "openai-chat":
            return of_openai(openai_completion(self.events) if self.events else self.whole)
        return of_anthropic(anthropic_message(self.events) if self.events else self.whole)


class Caller:
    """Both SDKs, pointed at one server; close after use. `url` is without `/v1`."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"Cookie": COOKIE}
        self._openai = openai.OpenAI(
            base_url=f"{url}/v1",
            api_key=key,
            organization=ORGANIZATION,
            max_retries=0,
            timeout=20.0,
            default_headers=headers,
        )
        self._anthropic = anthropic.Anthropic(
            base_url=url, api_key=key, max_retries=0, timeout=20.0, default_headers=headers
        )

    def close(self) -> None:
        """Close the connections."""
        self._openai.close()
        self._anthropic.close()

    def ask(self, kind: Kind, body: bytes, *, stream: bool) -> Answer:
        """Send these very bytes."""
        answer = Answer(kind)
        try:
            raw = self._post(kind, body, stream)
            answer.status, answer.headers = raw.status_code, _lower(raw.headers)
            parsed = raw.parse()
            if stream:
                with parsed:
                    for event in parsed:
                        answer.events.append(event.to_dict(mode="json", warnings=False))
            else:
                plain = parsed is None or isinstance(parsed, str)
                answer.whole = parsed if plain else parsed.to_dict(mode="json", warnings=False)
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            answer.status = error.status_code
            answer.error, answer.error_body = type(error).__name__, error.body
            answer.headers = _lower(error.response.headers)
        except (openai.APIError, anthropic.APIError) as error:
            answer.error, answer.error_body = type(error).__name__, error.body
        except ValueError as error:  # what the SDKs raise for an event that is not JSON
            answer.error = type(error).__name__
        return answer

    def _post(self, kind: Kind, body: bytes, stream: bool) -> Any:
        path = ENDPOINTS[kind]
        options: Any = {"headers": {"X-Stainless-Raw-Response": "true", "Content-Type": "application/json"}}
        match kind:
            case "openai-chat":
                return self._openai.post(
                    path,
                    cast_to=ChatCompletion,
                    content=body,
                    options=options,
                    stream=stream,
                    stream_cls=openai.Stream[ChatCompletionChunk],
                )
            case "anthropic":
                return self._anthropic.post(
                    path,
                    cast_to=Message,
                    content=body,
                    options=options,
                    stream=stream,
                    stream_cls=anthropic.Stream[RawMessageStreamEvent],
                )
            case "count-tokens":
                return self._anthropic.post(path, cast_to=MessageTokensCount, content=body, options=options)


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
