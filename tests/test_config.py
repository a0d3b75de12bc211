"""The settings: what a file and the environment mean together, and how mistakes are told."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace import config
from headrace.access import KeyTerms
from headrace.config import Problem, Secret, Settings, prices
from headrace.config.table import Table
from headrace.errors import ConfigError, InvalidRequest
from headrace.prices import Catalog, ModelOverride
from headrace.types import Budget, Target

STRONG = "0123456789abcdef"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    path = folder / "headrace.toml"
    path.write_text(text, "utf-8")
    return config.load(path, environ={"HOME": "/home/u"} if environ is None else environ, cwd=folder)


def problems(folder: Path, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[Problem]:
    path = folder / "headrace.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.check(path, {} if environ is None else environ, cwd=folder)


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_shows_itself_only_on_request() -> None:
    """`repr`, `str`, `format`, `%` and a containing settings object all hide the value."""
    secret = Secret("hunter2-hunter2")
    shown = f"{secret} {secret!r} {secret:>20} {[secret]} " + "%s %r" % (secret, secret)  # noqa: UP031
    assert "hunter2" not in shown
    assert secret.reveal() == "hunter2-hunter2"


def test_secrets_compare_by_value() -> None:
    """Equal values are equal and hash alike, also outside ASCII; a plain string is never equal."""
    assert Secret("é") == Secret("é")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert not Secret("")


# --- without a file ---------------------------------------------------------------------------------------------------


def test_without_anything_the_embedded_model_answers(folder: Path) -> None:
    """No file and no key: no providers, and the default route is the embedded model."""
    found = config.load(environ={}, cwd=folder.parent)
    assert found.source is None
    assert not found.providers
    assert found.default_route is not None
    assert found.default_route.cascade == (Target("local", "default"),)


def test_keys_in_the_environment_are_providers(folder: Path) -> None:
    """Each conventional variable that is set makes its provider usable; there is then no default model."""
    environ = {"OPENAI_API_KEY": " sk-1\n", "ANTHROPIC_API_KEY": "a", "GROQ_API_KEY": ""}
    found = config.load(environ=environ, cwd=folder.parent)
    assert set(found.providers) == {"openai", "anthropic"}
    openai, anthropic = found.providers["openai"], found.providers["anthropic"]
    assert openai.api_key == Secret("sk-1")
    assert (openai.dialect, openai.auth, openai.base_url) == (
        "openai-chat",
        "bearer",
        "https://api.openai.com/v1",
    )
    assert (anthropic.dialect, anthropic.auth) == ("anthropic", "x-api-key")
    assert anthropic.base_url == "https://api.anthropic.com"
    assert found.default_route is None


def test_conventional_variables_of_the_sdks_are_honoured(folder: Path) -> None:
    """Base URLs and Anthropic's bearer token mean what the official SDKs make of them."""
    environ = {
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": "http://10.0.0.1:9/v1/",
        "ANTHROPIC_AUTH_TOKEN": "t",
        "ANTHROPIC_BASE_URL": "https://proxy.example/anthropic/v1",
    }
    found = config.load(environ=environ, cwd=folder.parent)
    assert found.providers["openai"].base_url == "http://10.0.0.1:9/v1"
    anthropic = found.providers["anthropic"]
    assert anthropic.base_url == "https://proxy.example/anthropic"
    assert (anthropic.auth, anthropic.key_variable) == ("bearer", "ANTHROPIC_AUTH_TOKEN")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("box:1234", "http://box:1234/v1"),
        (":1234", "http://127.0.0.1:1234/v1"),
        ("http://box", "http://box:80/v1"),
        ("https://ollama.com", "https://ollama.com:443/v1"),
        ("[::1]:99", "http://[::1]:99/v1"),
        ("http://box:80/ollama/", "http://box:80/ollama"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(folder: Path, host: str, url: str) -> None:
    """Scheme, host and port may each be missing."""
    provider = config.load(environ={"OLLAMA_HOST": host}, cwd=folder.parent).providers["ollama"]
    assert provider.base_url == url
    assert (provider.auth, provider.keyless, provider.usable) == ("none", True, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OLLAMA_HOST", "ftp://x"),
        ("OLLAMA_HOST", "x:99999999"),
        ("OLLAMA_HOST", "u:p@x"),
        ("HEADRACE_PORT", "http"),
    ],
)
def test_a_bad_variable_is_named(folder: Path, name: str, value: str) -> None:
    """A variable that cannot be used is a mistake without a line, told by its name and without its value."""
    found = only(config.check(None, {name: value}, cwd=folder.parent))
    assert found.line == 0
    assert name in found.message
    assert value not in str(found)


@pytest.mark.parametrize("value", ["ftp://x", "x", "http://"])
def test_a_bad_base_url_in_the_environment_is_refused(folder: Path, value: str) -> None:
    """It would otherwise send the key somewhere else than meant."""
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": value}
    assert "OPENAI_BASE_URL" in only(config.check(None, environ, cwd=folder.parent)).message


def test_a_key_that_cannot_stand_in_a_header_is_refused(folder: Path) -> None:
    """A pasted line break would otherwise split the header."""
    found = only(config.check(None, {"OPENAI_API_KEY": "sk-se\ncret"}, cwd=folder.parent))
    assert "OPENAI_API_KEY" in found.message
    assert "cret" not in str(found)


def test_proxies_and_certificates_come_from_the_environment(folder: Path) -> None:
    """Both spellings of the proxy variables pass through; a proxy's password is not in the repr."""
    environ = {"HTTPS_PROXY": "http://u:secret@p:1", "no_proxy": "x", "SSL_CERT_FILE": "/ca.pem", "A": "b"}
    found = config.load(environ=environ, cwd=folder.parent)
    assert found.proxy_environ == {"HTTPS_PROXY": "http://u:secret@p:1", "no_proxy": "x"}
    assert found.ca_file == Path("/ca.pem")
    assert "secret" not in repr(found)


def test_the_file_is_found_upward(tmp_path: Path) -> None:
    """`HEADRACE_CONFIG` wins, then the nearest file on the way to the root."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "headrace.toml").write_text("")
    assert config.find(inner, {}) == tmp_path / "headrace.toml"
    (tmp_path / "a" / "headrace.toml").write_text("")
    assert config.find(inner, {}) == tmp_path / "a" / "headrace.toml"
    assert config.find(inner, {"HEADRACE_CONFIG": "x.toml"}) == inner / "x.toml"


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nobody wants the defaults when the file they named is missing."""
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(environ={"HEADRACE_CONFIG": "nowhere.toml"}, cwd=tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path, environ={})


def test_every_known_provider_can_be_used(folder: Path) -> None:
    """Each row of the table gives a provider with a valid address, and names its key's source and its docs."""
    for name, row in config.known_providers().items():
        environ = {variable: "k" for variable, _ in row.keys}
        provider = load(folder, f"[providers.{name}]", environ).providers[name]
        assert provider.usable
        assert provider.base_url.startswith("http://127.0.0.1" if row.keyless else "https://")
        assert row.docs.startswith("https://")
        assert row.keyless or row.keys
        assert load(folder, f"[providers.{name}]", {}).providers[name].usable is row.keyless


# --- with a file ------------------------------------------------------------------------------------------------------

DESIGN = """
[providers.openai]
[providers.vllm]
dialect = "openai-chat"
base_url = "http://127.0.0.1:8001/v1"
[deployments.second]
target = "openai/gpt-5"

[routes.smart]
deadline = "60s"
max_output_tokens = 500
on_refusal = "next"
cascade = [
  { target = "anthropic/claude-sonnet-4-5", attempts = 3 },
  "openai/gpt-5",
  { target = "local/default", attempts = 1 },
]
[routes.open]
max_wait = "0s"
cascade = ["openrouter/meta-llama/llama-3.3-70b:free"]

[gateway]
port = 4001
admin_key = "${HEADRACE_ADMIN_KEY}"
drain = "1m30s"
[keys.dev]
value = "${HEADRACE_DEV_KEY}"
routes = ["smart"]
team = "core"
budget = { usd = "5", window = "day" }
[budgets]
timezone = "Europe/Berlin"
total = [{ usd = "100.5", tokens = 1000, window = "month" }, { usd = "90", window = "month", soft = true }]
users = { "*" = { tokens = 10, window = "minute", on_limit = "downgrade", timezone = "UTC" } }
[store]
path = "headrace.db"
[local]
model = "models/x.gguf"
cache_dir = "~/weights"
[prices."openai/my-model"]
input_usd_per_mtok = "3.00"
output_usd_per_mtok = "6"
tools = false
context_window = 8192
"""
ENVIRON = {
    "HEADRACE_ADMIN_KEY": "admin-" + STRONG,
    "HEADRACE_DEV_KEY": "dev-" + STRONG,
    "OPENAI_API_KEY": "sk-canary",
    "HOME": "/home/u",
}


def test_the_design_is_understood(folder: Path) -> None:
    """The whole example means what it says."""
    found = load(folder, DESIGN, ENVIRON)
    smart = found.routes["smart"]
    assert [str(target) for target in smart.cascade] == [
        "anthropic/claude-sonnet-4-5",
        "openai/gpt-5",
        "local/default",
    ]
    assert [target.attempts for target in smart.cascade] == [3, 1, 1]
    assert (smart.deadline_s, smart.max_output_tokens, smart.on_refusal) == (60.0, 500, "next")
    assert found.routes["open"].max_wait_s == 0.0
    assert found.routes["open"].cascade == (Target("openrouter", "meta-llama/llama-3.3-70b:free"),)
    assert found.keys["dev"].budgets == (
        Budget(unit="usd", amount=5_000_000_000, window="day", zone="Europe/Berlin"),
    )
    assert found.budgets.total == (
        Budget(unit="usd", amount=100_500_000_000, window="month", zone="Europe/Berlin"),
        Budget(unit="tokens", amount=1000, window="month", zone="Europe/Berlin"),
        Budget(unit="usd", amount=90_000_000_000, window="month", hard=False, zone="Europe/Berlin"),
    )
    assert found.budgets.users == {"*": (Budget(unit="tokens", amount=10, window="minute", downgrade=True),)}
    assert found.gateway.port == 4001
    assert found.gateway.drain_s == 90.0
    assert found.gateway.admin_key == Secret("admin-" + STRONG)
    key = found.keys["dev"]
    assert (key.tenant, key.team, key.user, key.routes) == ("dev", "core", None, ("smart",))
    assert found.store.path == folder / "headrace.db"
    assert found.local.model == str(folder / "models/x.gguf")
    assert found.local.cache_dir == Path("/home/u/weights")
    assert found.prices == {
        "openai/my-model": {
            "input_usd_per_mtok": "3.00",
            "output_usd_per_mtok": "6",
            "tools": False,
            "context_window": 8192,
        }
    }


def test_a_keys_terms_are_understood(folder: Path) -> None:
    """Roles, models and the moments at which keys end, in each way to write one."""
    ends = {
        "2030-01-31": 1_896_048_000.0,
        '"2030-01-31"': 1_896_048_000.0,
        "2030-01-31T12:00:00Z": 1_896_091_200.0,
        '"2030-01-31T12:00:00+02:00"': 1_896_084_000.0,
        "2030-01-31T12:00:00": 1_896_091_200.0,
        "2001-01-01": 978_307_200.0,
    }
    text = '[keys.boss]\nvalue = "b"\nrole = "admin"\n'
    text += "".join(
        f'[keys.k{number}]\nvalue = "{number}"\nmodels = ["openai/*", "local/default"]\nexpires = {end}\n'
        for number, end in enumerate(ends)
    )
    keys = load(folder, text).keys
    assert (keys["boss"].role, keys["boss"].expires_wall, keys["k0"].role) == ("admin", None, "caller")
    assert keys["k0"].models == ("openai/*", "local/default")
    assert [keys[f"k{number}"].expires_wall for number in range(len(ends))] == list(ends.values())


MADE = {"budget": {"usd": "5", "window": "day"}, "routes": ["smart"], "user": "ann"}


def test_a_key_that_is_made_has_the_terms_of_one_that_is_written(folder: Path) -> None:
    """The same members mean the same; a tenant is named, or the key's name, or its id; an end may be counted from now."""
    found = load(folder, DESIGN, ENVIRON)
    name, terms = config.key_terms(MADE | {"name": "n", "expires": "30d"}, found, usual="key_1", now=1000.0)
    assert name == "n"
    assert terms == KeyTerms(
        tenant="n",
        user="ann",
        routes=("smart",),
        budgets=(Budget(unit="usd", amount=5_000_000_000, window="day", zone="Europe/Berlin"),),
        expires_wall=1000.0 + 30 * 86_400,
    )
    assert config.key_terms({}, found, usual="key_1", now=0.0) == (None, KeyTerms(tenant="key_1"))
    assert config.key_terms({"tenant": "t"}, found, usual="key_1", now=0.0)[1].tenant == "t"
    assert config.key_terms({"expires": "12h"}, found, usual="k", now=1.0)[1].expires_wall == 43_201.0


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "hr--canary0123456789"}, "begins as a key's value"),
        ({"name": 5}, "must be a string"),
        ({"routes": ["nowhere"]}, "no such route"),
        ({"routes": "smart"}, "array"),
        ({"budget": {"usd": 5, "window": "day"}}, "Put it in quotes"),
        ({"budget": {"usd": "5"}}, "no window"),
        ({"expires": "2001-01-01"}, "is past"),
        ({"expires": "0s"}, "is past"),
        ({"expires": "soon"}, '"30d"'),
        ({"value": "hr-canary-value"}, "unknown key"),
        ({"nmae": "x"}, 'Did you mean "name"'),
        ({"tenant": "${SOME_VARIABLE}"}, "SOME_VARIABLE is not set"),
        ({"role": None, "tenant": ""}, "empty"),
    ],
)
def test_terms_that_cannot_be_are_refused(
    folder: Path, members: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is wrong; no variable is read for whoever asks, and no value of a key is repeated."""
    monkeypatch.setenv("SOME_VARIABLE", "canary")
    found = load(folder, DESIGN, ENVIRON)
    with pytest.raises(InvalidRequest) as caught:
        config.key_terms(members, found, usual="k", now=1e9)
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_providers_that_only_a_route_names_are_there(folder: Path) -> None:
    """A known name needs no table; without its key it is listed as not usable, with the variable to set."""
    found = load(folder, DESIGN, ENVIRON)
    assert set(found.providers) == {"openai", "vllm", "anthropic", "openrouter"}
    anthropic = found.providers["anthropic"]
    assert (anthropic.usable, anthropic.key_variable) == (False, "ANTHROPIC_API_KEY")
    assert found.providers["vllm"].usable


def test_no_secret_is_in_the_repr_of_settings(folder: Path) -> None:
    """The repr of everything together has none of the keys."""
    text = (
        DESIGN
        + '[providers.x]\ndialect="anthropic"\nbase_url="http://x"\n[providers.x.headers]\nx-token="sekret"'
    )
    shown = repr(load(folder, text, ENVIRON))
    assert not any(secret in shown for secret in (STRONG, "sk-canary", "sekret"))


def test_settings_do_not_change(folder: Path) -> None:
    """Neither attributes nor mappings can be set."""
    found = load(folder, DESIGN, ENVIRON)
    with pytest.raises(FrozenInstanceError):
        found.gateway.port = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        found.routes["x"] = found.routes["smart"]  # type: ignore[index]


def test_another_provider_by_dialect_and_address(folder: Path) -> None:
    """Its key comes from the file or from `<NAME>_API_KEY`; on this machine it needs none."""
    text = """
    [providers.my-llm]
    dialect = "anthropic"
    base_url = "https://llm.example/v1/"
    headers = { X-Team = "core" }
    [providers.here]
    dialect = "openai-chat"
    base_url = "http://localhost:9/v1"
    [providers.inside]
    dialect = "openai-chat"
    base_url = "http://10.0.0.1:9/v1"
    auth = "none"
    [providers.own]
    dialect = "openai-chat"
    base_url = "http://10.0.0.1:9/v1"
    api_key = "${OWN}"
    """
    found = load(folder, text, {"MY_LLM_API_KEY": "k", "OWN": "o"}).providers
    assert found["my-llm"].api_key == Secret("k")
    assert (found["my-llm"].auth, found["my-llm"].base_url) == ("x-api-key", "https://llm.example")
    assert found["my-llm"].headers == (("x-team", "core"),)
    assert (found["here"].usable, found["here"].auth) == (True, "none")
    assert (found["inside"].usable, found["inside"].key_variable) == (True, None)
    assert (found["own"].api_key, found["own"].key_variable) == (Secret("o"), "OWN")


def test_the_file_wins_over_the_environment(folder: Path) -> None:
    """Also an empty key of the file does: it turns the provider off."""
    environ = {
        "OPENAI_API_KEY": "k",
        "OPENAI_BASE_URL": "http://env/v1",
        "HEADRACE_PORT": "1",
        "HEADRACE_HOST": "::1",
    }
    text = '[providers.openai]\nbase_url = "http://file/v1"\napi_key = ""\n[gateway]\nport = 2\n'
    found = load(folder, text, environ)
    assert found.providers["openai"].base_url == "http://file/v1"
    assert not found.providers["openai"].usable
    assert (found.gateway.host, found.gateway.port) == ("::1", 2)


def test_default_routes(folder: Path) -> None:
    """The one called `default`, or the only one; with several the caller has to choose."""
    one = '[routes.a]\ncascade = ["openai/x"]\n'
    two = one + '[routes.b]\ncascade = ["openai/y"]\n'
    three = two + '[routes.default]\ncascade = ["openai/z"]\n'
    assert load(folder, one).default_route == load(folder, one).routes["a"]
    assert load(folder, two).default_route is None
    assert load(folder, three).default_route == load(folder, three).routes["default"]


def test_prices_have_the_catalogue_s_members() -> None:
    """The names that the file knows are those that the catalogue reads; this module may not import them."""
    names = {f"{kind}_usd_per_mtok" for kind in prices.PRICE_KINDS} | {*prices.LIMITS, *prices.ABILITIES}
    names |= {"later"}  # in the file each is a table by its day
    assert names == set(ModelOverride.__struct_fields__)


@given(
    st.dictionaries(
        st.sampled_from([name for name in ModelOverride.__struct_fields__ if name != "later"]),
        st.one_of(st.sampled_from(["0", "3.00", "0.0000000001", "x", ""]), st.integers(-1, 9), st.booleans()),
    )
)
def test_the_catalogue_takes_what_the_settings_take(folder: Path, row: dict[str, str | int]) -> None:
    """A price that is no problem here is none there either."""
    text = '[prices."openai/x"]\n' + "".join(f"{name} = {toml(value)}\n" for name, value in row.items())
    if problems(folder, text):
        return
    assert Catalog.from_settings(load(folder, text).prices).model("openai", "x") is not None


def test_dollar_signs(folder: Path) -> None:
    """`$$` is one dollar, a lone `$` is itself, and what a variable holds is not substituted again."""
    text = '[keys.a]\nvalue = "$$x${V}$"'
    assert load(folder, text, {"V": "${W}"}).keys["a"].value == Secret("$x${W}$")


def test_numbers_may_come_from_variables(folder: Path) -> None:
    """Ports and durations are often set from outside."""
    text = '[gateway]\nport = "${P}"\ndrain = "${D}"'
    gateway = load(folder, text, {"P": "81", "D": "5s"}).gateway
    assert (gateway.port, gateway.drain_s) == (81, 5.0)
    assert only(problems(folder, text, {"P": "x", "D": "5s"})).key == "gateway.port"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "fix"),
    [
        ("[routs.x]", 1, "routs", "unknown key", 'Did you mean "routes"?'),
        ("[providers.opnai]", 1, "providers.opnai", "lacks dialect", 'Did you mean "openai"?'),
        ("[providers.local]", 1, "providers.local", "embedded", "[local]"),
        ('[providers.x]\ndialect = "openai-chat"', 1, "providers.x", "lacks dialect or base_url", ""),
        ('[providers."a b"]', 1, 'providers."a b"', "letters", ""),
        ('[providers.openai]\nbase_url = "ftp://x"', 2, "providers.openai.base_url", "http or https", ""),
        (
            '[providers.openai]\nbase_url = "https://x:70000"',
            2,
            "providers.openai.base_url",
            "http or https",
            "",
        ),
        ('[providers.openai]\nbase_url = "https://x/?a=b"', 2, "providers.openai.base_url", "query", ""),
        (
            '[providers.openai]\nbase_url = "https://u:p@x/"',
            2,
            "providers.openai.base_url",
            "password",
            "api_key",
        ),
        ('[providers.openai]\ndialect = "openai"', 2, "providers.openai.dialect", "one of", "openai-chat"),
        ('[providers.openai]\nauth = "none"\napi_key = "k"', 3, "providers.openai.api_key", "never sent", ""),
        ('[providers.openai]\napi_key = "a b"', 2, "providers.openai.api_key", "spaces", ""),
        (
            '[providers.openai.headers]\nAuthorization = "x"',
            2,
            "providers.openai.headers.Authorization",
            "itself",
            "api_key",
        ),
        ('[providers.openai.headers]\n"a b" = "x"', 2, 'providers.openai.headers."a b"', "header's name", ""),
        ('[providers.openai.headers]\na = "x\\r\\ny: z"', 2, "providers.openai.headers.a", "ASCII", ""),
        ("[routes.x]", 1, "routes.x", "no cascade", "cascade ="),
        ("[routes.x]\ncascade = []", 2, "routes.x.cascade", "at least one", ""),
        ('[routes.x]\ncascade = "openai/x"', 2, "routes.x.cascade", "array", ""),
        ('[routes."a/b"]\ncascade = ["openai/x"]', 1, 'routes."a/b"', "no slash", ""),
        (
            '[routes.x]\ncascade = [\n"openai/x",\n"gpt"\n]',
            4,
            "routes.x.cascade[1]",
            "provider/model",
            "openai/gpt",
        ),
        ('[routes.x]\ncascade = ["antropic/c"]', 2, "routes.x.cascade[0]", "no provider", '"anthropic"'),
        ('[routes.x]\ncascade = ["x"]', 2, "routes.x.cascade[0]", "not routes", ""),
        ("[routes.x]\ncascade = [7]", 2, "routes.x.cascade[0]", "a number", ""),
        ("[routes.x]\ncascade = [\n{}]", 3, "routes.x.cascade[0]", "no target", ""),
        (
            '[routes.x]\ncascade = [\n{target = "openai/x", attempts = 0}]',
            3,
            "routes.x.cascade[0].attempts",
            "from 1",
            "",
        ),
        (
            '[routes.x]\ncascade = [\n{target = "openai/x", atempts = 2}]',
            3,
            "routes.x.cascade[0].atempts",
            "unknown",
            '"attempts"',
        ),
        ('[routes.x]\ncascade = ["openai/x"]\ndeadline = 60', 3, "routes.x.deadline", "unit", '"60s"'),
        ('[routes.x]\ncascade = ["openai/x"]\ndeadline = "0s"', 3, "routes.x.deadline", "above 0", ""),
        ('[routes.x]\ncascade = ["openai/x"]\ndeadline = "25h"', 3, "routes.x.deadline", "24h", ""),
        (
            '[routes.x]\ncascade = ["openai/x"]\ndeadline = "soon"',
            3,
            "routes.x.deadline",
            "duration",
            '"60s"',
        ),
        (
            '[routes.x]\ncascade = ["openai/x"]\nmax_cost_usd = 1',
            3,
            "routes.x.max_cost_usd",
            "not written as a number",
            '"1"',
        ),
        ('[budgets]\ntotal = { usd = "5" }', 2, "budgets.total", "no window", "window"),
        ('[budgets]\ntotal = { window = "day" }', 2, "budgets.total", "limits nothing", "usd"),
        ('[budgets]\ntotal = "5"', 2, "budgets.total", "must be a table", "window"),
        (
            '[budgets]\ntotal = { usd = "5", window = "week" }',
            2,
            "budgets.total.window",
            "must be one of minute, hour, day, month",
            "",
        ),
        ('[budgets]\ntimezone = "Mars/Olympus"', 2, "budgets.timezone", "no such time zone", "Europe"),
        (
            '[budgets.tags]\nproject = { usd = "5", window = "day" }',
            2,
            "budgets.tags.project",
            "name=value",
            "",
        ),
        (
            '[keys.a]\nvalue = "v"\nbudget = [{ usd = "5", window = "day" }, { usd = "6", window = "day" }]',
            3,
            "keys.a.budget",
            "two budgets in dollars",
            "smaller",
        ),
        (
            '[gateway]\nworkers = 2\n[store]\npath = ":memory:"\n[budgets]\ntotal = { usd = "5", window = "day" }',
            5,
            "budgets",
            "several workers",
            "path",
        ),
        ('[routes.x]\ncascade = ["openai/x"]\n[routes.x.output]', 3, "routes.x.output", "not supported", ""),
        (
            '[routes.x]\ncascade = ["openai/x"]\n[routes.x.cache]\nmax_wrong = 0.9',
            4,
            "routes.x.cache.max_wrong",
            "from 0 to 0.5",
            "",
        ),
        (
            '[routes.x]\ncascade = ["openai/x"]\n[routes.x.cache]\nmax_wrong = "1%"',
            4,
            "routes.x.cache.max_wrong",
            "must be a number",
            "without quotes",
        ),
        ("[store]\nurl = 'redis://x'", 2, "store.url", "not supported", ""),
        ('[gateway]\nhost = "0.0.0.0"', 2, "gateway.host", "no admin key", "127.0.0.1"),
        ("[gateway]\nport = 65536", 2, "gateway.port", "65535", ""),
        ("[gateway]\nport = true", 2, "gateway.port", "whole number", ""),
        ('[gateway]\nport = "80"', 2, "gateway.port", "whole number", "without quotes"),
        ("gateway = 5", 1, "gateway", "must be a table", ""),
        ('providers.openai = "sk-1"', 1, "providers.openai", "must be a table", ""),
        ("[keys.x]", 1, "keys.x", "no value", "${NAME}"),
        ('[keys.x]\nvalue = ""', 2, "keys.x.value", "empty", ""),
        ('[keys."x y"]\nvalue = "k"', 1, 'keys."x y"', "letters", ""),
        ('[keys.x]\nvalue = "k"\n[keys.y]\nvalue = "k"', 4, "keys.y.value", "of key x", ""),
        ('[keys.x]\nvalue = "k"\nroutes = [\n"y"]', 4, "keys.x.routes[0]", "no such route", ""),
        ('[keys.x]\nvalue = "k"\nmodels = ["gpt-5"]', 3, "keys.x.models[0]", "no model", "provider/*"),
        ('[keys.x]\nvalue = "k"\nmodels = ["openai/"]', 3, "keys.x.models[0]", "no model", "provider/*"),
        ('[keys.x]\nvalue = "k"\nmodels = ["nobody/m"]', 3, "keys.x.models[0]", "no model", "provider/*"),
        ('[keys.x]\nvalue = "k"\nmodels = ["openai/gpt-*"]', 3, "keys.x.models[0]", "no model", "provider/*"),
        ('[keys.x]\nvalue = "k"\nmodels = ["openai/a,b/c"]', 3, "keys.x.models[0]", "no model", "provider/*"),
        ('[keys.x]\nvalue = "k"\nrole = "root"', 3, "keys.x.role", "one of caller, viewer", ""),
        (
            '[keys.x]\nvalue = "k"\nrole = "viewer"\nmodels = ["openai/*"]',
            3,
            "keys.x.role",
            "asks no models",
            "Leave",
        ),
        ('[keys.x]\nvalue = "k"\nexpires = "soon"', 3, "keys.x.expires", "not a date", "2030-01-31"),
        ('[keys.x]\nvalue = "k"\nexpires = "30d"', 3, "keys.x.expires", "not a date", "2030-01-31"),
        ('[keys.x]\nvalue = "k"\nexpires = 12:00:00', 3, "keys.x.expires", "not a date", "2030-01-31"),
        ('[keys.x]\nvalue = "k"\nexpires = 5', 3, "keys.x.expires", "not a date", "2030-01-31"),
        ('[keys.x]\nvalue = "k"\ntenant = "a\\nb"', 3, "keys.x.tenant", "printable", ""),
        ('[keys.x]\nvalue = "k"\n[gateway]\nadmin_key = "k"', 2, "keys.x.value", "is the admin key", ""),
        ('[keys.x]\nvalue = "${NOPE}"', 2, "keys.x.value", "NOPE is not set", "export NOPE"),
        ('[keys.x]\nvalue = "${}"', 2, "keys.x.value", "between ${ and }", "$$"),
        ("[prices.gpt]", 1, "prices.gpt", "provider/model", ""),
        (
            '[prices."openai/x"]\ninput_usd_per_mtok = 3.5\noutput_usd_per_mtok = "1"',
            2,
            'prices."openai/x".input_usd_per_mtok',
            "not written as a number",
            '"3.5"',
        ),
        (
            '[prices."openai/x"]\ninput_usd_per_mtok = "3"',
            1,
            'prices."openai/x"',
            "must give output_usd_per_mtok",
            "",
        ),
        (
            '[prices."openai/x"]\ninput = "3"',
            2,
            'prices."openai/x".input',
            "unknown key",
            "input_usd_per_mtok",
        ),
        (
            '[prices."openai/x"]\ninput_usd_per_mtok = "3,5"\noutput_usd_per_mtok = "1"',
            2,
            'prices."openai/x".input_usd_per_mtok',
            "dollars",
            '"3.00"',
        ),
        ('[prices."openai/x"]\nmax_output = 0', 2, 'prices."openai/x".max_output', "from 1", ""),
        ('[prices."openai/x"]\ntools = 1', 2, 'prices."openai/x".tools', "true or false", ""),
        ("a = ", 1, "", "not TOML", ""),
        ("\n\nx = 1\nx = 2", 4, "", "not TOML", ""),
    ],
)
def test_each_mistake_is_told_with_its_line_and_fix(
    folder: Path, text: str, line: int, key: str, message: str, fix: str
) -> None:
    """One mistake in the file gives exactly one problem, on its line, with the key, the reason and the fix."""
    found = only(problems(folder, text))
    assert (found.line, found.key) == (line, key)
    assert message in found.message
    assert fix in found.fix


def test_all_mistakes_are_told_at_once_and_nothing_is_used(folder: Path) -> None:
    """`load` refuses the file whole; its message has every problem in the order of the lines."""
    text = '[gateway]\nport = 0\nprot = 1\n[routes.x]\ncascade = ["nope/x"]\ndeadline = "x"\n'
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    lines = str(caught.value).splitlines()
    assert "(3 problems)" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["line 3", "line 5", "line 6"]


def test_off_loopback_every_key_must_be_strong(folder: Path) -> None:
    """A short admin key and a short client key are both refused; on loopback both pass."""
    text = '[gateway]\nhost = "{}"\nadmin_key = "short"\n[keys.x]\nvalue = "tiny"'
    found = problems(folder, text.format("192.168.0.1"))
    assert [problem.key for problem in found] == ["gateway.admin_key", "keys.x.value"]
    assert all("16 characters" in problem.message for problem in found)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert not problems(folder, text.format(host))


def test_the_command_line_is_judged_like_the_file(folder: Path) -> None:
    """Opening the gateway to others from the command line needs the same admin key."""
    found = load(folder, "")
    assert config.with_gateway(found, port=0, workers=2).gateway.workers == 2
    with pytest.raises(ConfigError, match="no admin key"):
        config.with_gateway(found, host="0.0.0.0")
    with pytest.raises(ConfigError, match="65535"):
        config.with_gateway(found, port=70000)
    with pytest.raises(ConfigError, match="256"):
        config.with_gateway(found, workers=0)


CANARY = "Canary0123456789"


@pytest.mark.parametrize(
    "text",
    [
        f'[providers.openai]\napi_kye = "{CANARY}"',
        f'[providers.openai]\napi_key = "{CANARY} x"',
        f'[providers.openai]\napi_key = ["{CANARY}"]',
        f'[providers.openai.headers]\nx = "{CANARY}\\u0000"',
        f'providers.openai = "{CANARY}"',
        f'keys.x = "{CANARY}"',
        f'[keys.x]\nvalue = ["{CANARY}"]',
        f'[keys.x]\nvaule = "{CANARY}"',
        f'[keys.x]\nvalue = "{CANARY}"\n[keys.y]\nvalue = "{CANARY}"',
        f'[keys.x]\nvalue = "{CANARY}${{NOPE}}"',
        f'[gateway]\nhost = "0.0.0.0"\nadmin_key = "{CANARY[:10]}"',
        f'[gateway]\nhost = "0.0.0.0"\nadmin_key = 0{CANARY}',
        f'[providers.openai]\nbase_url = "https://user:{CANARY}@x/"',
        f'[providers.openai]\nbase_url = "sk-{CANARY}"',
        f'[routes.x]\ncascade = ["sk-{CANARY}"]',
        f'secret = "{CANARY}"',
        '[routes.x]\ncascade = ["${SECRET}"]',
        '[routes.x]\ncascade = ["openai/x"]\ndeadline = "${SECRET}"',
        '[gateway]\nport = "${SECRET}"',
    ],
)
def test_reports_never_show_a_secret(folder: Path, text: str) -> None:
    """Wherever a key is put by mistake, the report of that mistake does not repeat it."""
    found = problems(folder, text, {"SECRET": CANARY})
    assert found
    shown = config.report(found, folder) + repr(found)
    assert CANARY[:10] not in shown


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_judged_without_a_crash(folder: Path, data: bytes) -> None:
    """Whatever the file holds, the answer is a list of problems, or none."""
    assert isinstance(problems(folder, data), list)


SHAPES = st.recursive(
    st.one_of(
        st.integers(),
        st.floats(),
        st.booleans(),
        st.text(max_size=8),
        st.sampled_from(["openai/x", "${A}", "5s"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
PATHS = st.sampled_from(
    [
        "providers",
        "providers.openai",
        "providers.openai.headers",
        "providers.openai.base_url",
        "providers.openai.api_key",
        "routes",
        "routes.x",
        "routes.x.cascade",
        "routes.x.deadline",
        "keys",
        "keys.x",
        "keys.x.value",
        "keys.x.routes",
        "gateway",
        "gateway.host",
        "gateway.port",
        "store",
        "store.path",
        "local",
        "local.model",
        "prices",
        'prices."a/b"',
    ]
)


def toml(value: object) -> str:
    """`value` as TOML text."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return "nan" if math.isnan(value) else repr(value).replace("e", "e")
        case int():
            return str(value)
        case str():
            return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return (
                "{" + ", ".join(f"{toml(str(name))} = {toml(inner)}" for name, inner in value.items()) + "}"
            )
        case _:
            raise AssertionError(value)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(PATHS, SHAPES)
def test_any_value_in_any_place_is_used_or_refused(folder: Path, path: str, value: object) -> None:
    """`check` finds nothing exactly when `load` succeeds, and no shape of a value crashes either."""
    text = f"{path} = {toml(value)}\n"
    found = problems(folder, text, {"A": "b"})
    try:
        load(folder, text, {"A": "b"})
    except ConfigError:
        assert found
    else:
        assert not found
    assert all(problem.line == 1 for problem in found), found


def test_deep_nesting_is_refused(folder: Path) -> None:
    """A file that exhausts the parser's recursion is a problem, not a crash."""
    assert problems(folder, "a = " + "[" * 100_000 + "]" * 100_000)


# --- durations --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"])), min_size=1, max_size=4)
)
def test_durations_are_the_sum_of_their_parts(parts: list[tuple[int, str]]) -> None:
    """Each part counts by its unit."""
    milliseconds = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
    text = "".join(f"{number}{unit}" for number, unit in parts)
    expected = sum(number * milliseconds[unit] for number, unit in parts) / 1000
    assert config.parse_duration(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1.5s", 1.5), ("500ms", 0.5), ("1m30s", 90), ("0s", 0), ("2h", 7200)]
)
def test_durations(text: str, seconds: float) -> None:
    """The forms that the docs show."""
    assert config.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "5S", "1e3s", "5s ", ".5s", "5.s", "nan s", "٣s", "5d"]
)
def test_what_is_no_duration(text: str) -> None:
    """Without a unit, with a sign, in other digits: refused."""
    with pytest.raises(ValueError, match="not a duration"):
        config.parse_duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_finite_duration_or_refused(text: str) -> None:
    """Nothing gives a negative, infinite or undefined time."""
    try:
        seconds = config.parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds < math.inf


# --- documentation ----------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text("utf-8")


def test_the_documented_example_is_understood(folder: Path) -> None:
    """Every TOML block of the page is free of problems once its variables are set."""
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        names = re.findall(r"\$\{([A-Z_]+)\}", block)
        assert not problems(folder, block, {name: f"{name}-{STRONG}" for name in names})


def test_every_key_is_documented(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key that any table knows stands in the page's section for that table."""
    known: dict[str, set[str]] = {}
    close = Table.close

    def noted(table: Table) -> None:
        if len(table.path) in (1, 2, 3):
            section = next(
                (f"{name}s" for name in ("budget", "limit") if {name, f"{name}s"} & {*table.path[2:]}),
                str(table.path[0]),
            )
            known.setdefault(section, set()).update(table.known)
        close(table)

    monkeypatch.setattr(Table, "close", noted)
    load(folder, DESIGN, ENVIRON)
    assert set(known) == {
        "providers",
        "deployments",
        "routes",
        "keys",
        "gateway",
        "idempotency",
        "store",
        "cache",
        "local",
        "prices",
        "budgets",
        "limits",
    }
    for section, names in known.items():
        text = re.search(rf"^## `\[{section}\b.*?(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
        assert text is not None, section
        assert [name for name in sorted(names) if f"`{name}`" not in text[0]] == [], section


@pytest.mark.parametrize(
    "section", ["gateway", "routes.default", "routes.default.cache", "local", "store", "cache"]
)
def test_documented_defaults_are_the_defaults(folder: Path, section: str) -> None:
    """Writing a documented default into the file changes nothing."""
    title = re.escape(section.replace(".default", ".NAME"))
    text = re.search(rf"^##+ `\[{title}\]`\n(.*?)^##", PAGE, re.DOTALL | re.MULTILINE)
    assert text is not None
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text[1], re.MULTILINE)
    rows = [(name, value) for name, value in rows if not value.startswith("$")]
    assert rows or section == "store"
    needed = '[routes.default]\ncascade = ["local/default"]\n' if section.startswith("routes") else ""
    head = needed if section == "routes.default" else f"{needed}[{section}]\n"
    for name, value in rows:
        bare = load(folder, head)
        assert load(folder, f"{head}{name} = {value}\n") == bare, name


def test_the_known_providers_are_documented() -> None:
    """The page's table has a row for each, with its variables and its address."""
    for name, row in config.known_providers().items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
        for word in (row.base_url, *(key for key, _ in row.keys), *row.url_variables, *row.host_variables):
            assert f"`{word}`" in line, (name, word)


# --- import -----------------------------------------------------------------------------------------------------------


def test_nothing_is_read_at_import() -> None:
    """Importing the module opens no file of ours and touches no environment variable."""
    code = (
        "import os, sys\n"
        "class Closed(dict):\n"
        "    def _no(self, *a): raise AssertionError('the environment was read')\n"
        "    __getitem__ = get = __contains__ = __iter__ = items = keys = _no\n"
        "import dataclasses, hmac, tomllib, msgspec, asyncio\n"
        "os.environ = Closed()\n"
        "opened = []\n"
        "sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == 'open' else None)\n"
        "import headrace.config\n"
        "assert not [p for p in opened if p.endswith('.toml')], opened\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("line", "share"), [("", 0.0), ("hedge = {}", 0.05), ("hedge = { max_extra = 0.2 }", 0.2)]
)
def test_hedging_is_one_line(tmp_path: Path, line: str, share: float) -> None:
    """Off by default; a table turns it on."""
    path = tmp_path / "headrace.toml"
    path.write_text(f'[routes.r]\ncascade = ["openai/gpt-5"]\n{line}\n')
    assert config.load(path, environ={}).routes["r"].hedge == share


def test_a_price_from_a_day_on(folder: Path) -> None:
    """A table by its day; it must give both prices, and what is no day is an unknown key."""
    text = '[prices."openai/x"]\ninput_usd_per_mtok = "3"\noutput_usd_per_mtok = "15"\n'
    dated = text + '[prices."openai/x"."2027-01-01"]\ninput_usd_per_mtok = "4"\n'
    assert "must give output_usd_per_mtok" in only(problems(folder, dated)).message
    found = load(folder, dated + 'output_usd_per_mtok = "20"\n').prices["openai/x"]
    assert found["later"] == {"2027-01-01": {"input_usd_per_mtok": "4", "output_usd_per_mtok": "20"}}
    assert "unknown key" in only(problems(folder, text + '[prices."openai/x"."2027-02-30"]\n')).message
