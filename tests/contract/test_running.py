"""The fixture that other contract tests stand on."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest
from tests.contract.running import Served

from headrace.errors import ConfigError
from headrace.testing import FakeProvider


def test_a_gateway_in_a_thread_answers_an_sdk(gateway: Callable[[str], Served]) -> None:
    """The fixture's gateway answers the official SDK with the key that the fixture names."""
    with FakeProvider() as provider:
        base_url, key = gateway(
            f'[providers.fake]\ndialect = "openai-chat"\nbase_url = "{provider.base_url}"\n'
            '[routes.smart]\ncascade = ["fake/m"]\n'
        )
        with openai.OpenAI(base_url=base_url + "/v1", api_key=key, max_retries=0) as client:
            answer = client.chat.completions.create(
                model="smart", messages=[{"role": "user", "content": "hi"}]
            )
    assert answer.choices[0].message.content


def test_a_configuration_that_cannot_be_used_is_said_at_once(gateway: Callable[[str], Served]) -> None:
    """A mistake in the configuration is raised by the fixture and not by a later request."""
    with pytest.raises(ConfigError, match="cascade"):
        gateway("[routes.smart]\n")
