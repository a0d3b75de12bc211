"""The library's face. `headrace.sync` has the same for synchronous code."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeAlias

import msgspec

from headrace.answer import Answer, AnswerStream, Taken
from headrace.batch import TEXT, Drawn, Journal, Pace, Progress, Row, Rows, Run, asked, run_rows
from headrace.budget import BudgetScope, open_scopes
from headrace.choice import FirstGood, choose
from headrace.content import Prompt, as_messages
from headrace.embed import Embedded, Embedder
from headrace.engine import EMBEDDINGS, Engine, Levels
from headrace.errors import InvalidRequest
from headrace.handler import Route
from headrace.output import Shape, shape_of
from headrace.prompts.file import FilePrompt
from headrace.prompts.prompt import Filled
from headrace.rounds import Asked, Rounds
from headrace.tokens import estimate_chat
from headrace.tools import Approve, FunctionTool, function_tool
from headrace.types import Chat, Message, Reasoning, ResponseFormat, Tool, ToolChoice, Usage

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from headrace.config import Settings
    from headrace.guards import Judge

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

P = ParamSpec("P")
R = TypeVar("R")

CacheUse: TypeAlias = Literal["use", "refresh", "off"]
CACHE_CONTROL: Mapping[str, str] = {"use": "", "refresh": "no-cache", "off": "no-store"}
"""What `cache=` is to the cache's layer, which reads HTTP's `Cache-Control`."""

__all__ = ["Answer", "AnswerStream", "AsyncClient", "Estimated", "ModelInfo", "Taken"]


@dataclass(frozen=True, slots=True)
class Estimated:
    """What a request would take at the first target of its route.

    Attributes:
        input_tokens: The likely count.
        input_bound: An upper bound.
        cost_bound: Nano-dollars for `input_bound` and the whole output limit; None when the price or the limit is unknown.
        fits: Whether the bound and the output limit fit the model's window; None when the window is unknown.
    """

    target: str
    input_tokens: int
    input_bound: int
    output_limit: int | None
    cost_bound: int | None
    fits: bool | None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A name that `chat` takes."""

    name: str
    context: int | None = None
    max_output: int | None = None


class AsyncClient:
    """Asks models through the cascade.

    Args:
        settings: From `headrace.load`; None reads `headrace.toml` and the environment at the first request.
        models: Names of your own for cascades: ``{"fast": ["openai/gpt-5-mini", "gemini/..."]}``.
        judges: Who is asked for an opinion where a route's guard names them, see docs/guards.md.

    Use as ``async with AsyncClient() as llm``, or call `aclose`. One client serves any number of concurrent requests on one
    event loop.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        models: Mapping[str, Levels] | None = None,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        self._settings = settings
        self._models = dict(models or {})
        self._judges = dict(judges or {})
        self._engine: Engine | None = None
        self._embedder: Embedder | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def engine(self) -> Engine:
        """The engine, built at first use.

        Raises:
            ConfigError: The configuration is not usable.
            RuntimeError: The client was used on another event loop before.
        """
        self._stay()
        if self._engine is None:
            if self._settings is None:
                from headrace import config

                self._settings = config.load()
            self._engine = Engine(self._settings, judges=self._judges)
        return self._engine

    def _stay(self) -> None:
        """Connections live on the loop that made them."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # somebody looks at it from outside
            return
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this AsyncClient belongs to another event loop: make one inside each asyncio.run, or use headrace.Client, which works "
                "everywhere"
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close connections and write what is queued; idempotent."""
        if self._engine is not None:
            await self._engine.aclose()

    async def chat(
        self,
        model: Levels | Filled | FirstGood,
        prompt: Prompt | Filled | None = None,
        *,
        output: type[T] | Mapping[str, Any] | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        tools: Sequence[Tool | Callable[..., object]] = (),
        max_rounds: int = 8,
        approve: Approve | None = None,
        tool_timeout: float = 60.0,
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        reasoning: Reasoning | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        cache: CacheUse = "use",
        idempotency_key: str | None = None,
    ) -> Answer[T]:
        """Ask and wait for the whole answer.

        Args:
            model: A route, `provider/model`, or a cascade: a list of them, each alone or with its attempts; or a filled prompt that
                names its own; or `first_good(...)`.
            prompt: Text, parts (text, paths, bytes), or messages; or a filled prompt.
            output: What the answer must be: a pydantic model, a dataclass, a TypedDict, a msgspec struct, a builtin type such as
                `list[City]`, or a JSON Schema. The answer's `value` is one, valid. See docs/structured-output.md.
            tools: What the model may call. Plain functions are run and their results sent back until the model answers, see
                docs/tools.md; a `Tool` is only told of, and its calls are on the answer.
            max_rounds: The most requests of such a loop, 1 or more. All share one deadline and one `max_cost_usd`.
            approve: Asked before each function is run, with the call; False tells the model that it was not approved.
            tool_timeout: Seconds that one function may take.
            timeout: Seconds over all attempts, waits and functions.
            user, tags: For the ledger.
            cache: Where the route has a cache: `refresh` asks anew and keeps the answer, `off` neither looks nor keeps.
            idempotency_key: 1 to 255 characters of your own, such as a UUID: the same question with the same key is asked and paid for once, see
                docs/idempotency.md.

        Raises:
            AllTargetsFailed: Every level is spent.
            InvalidOutput: The last level's answer was no `output`; it has the raw text.
            ToolLoopStopped: The model goes on calling functions, or calls the same three times.
            ProviderError: A final error that no other level would cure (bad request, content filter).
            RequestError: The request itself is at fault.
        """

        _must_be_time(timeout)

        async def begin(
            levels: Levels | Filled, seconds: float | None, tagged: Mapping[str, str] | None
        ) -> Rounds[T]:
            return await self._rounds(
                levels,
                prompt,
                output,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                stop=stop,
                seed=seed,
                tools=tools,
                max_rounds=max_rounds,
                approve=approve,
                tool_timeout=tool_timeout,
                tool_choice=tool_choice,
                response_format=response_format,
                reasoning=reasoning,
                timeout=seconds,
                user=user,
                tags=tagged,
                cache=cache,
                idempotency_key=idempotency_key,
            )

        if isinstance(model, FirstGood):
            if idempotency_key is not None:
                raise InvalidRequest(
                    "first_good asks several models, and an idempotency_key is for one request",
                    param="idempotency_key",
                )
            return await choose(model, begin, clock=self.engine.clock, timeout=timeout, tags=tags or {})
        return await (await begin(model, timeout, tags)).finish()

    def stream(
        self,
        model: Levels | Filled,
        prompt: Prompt | Filled | None = None,
        *,
        output: type[T] | Mapping[str, Any] | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        tools: Sequence[Tool | Callable[..., object]] = (),
        max_rounds: int = 8,
        approve: Approve | None = None,
        tool_timeout: float = 60.0,
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        reasoning: Reasoning | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        cache: CacheUse = "use",
        idempotency_key: str | None = None,
    ) -> AnswerStream[T]:
        """As `chat`, answered as it comes; the errors of `chat` are raised on entering, those of later rounds while reading. The text is
        that of all rounds. With `output=` it comes when it is valid, and so do its errors; `partials` has what grows before."""

        async def rounds() -> Rounds[T]:
            _must_be_time(timeout)
            return await self._rounds(
                model,
                prompt,
                output,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                stop=stop,
                seed=seed,
                tools=tools,
                max_rounds=max_rounds,
                approve=approve,
                tool_timeout=tool_timeout,
                tool_choice=tool_choice,
                response_format=response_format,
                reasoning=reasoning,
                timeout=timeout,
                user=user,
                tags=tags,
                cache=cache,
                idempotency_key=idempotency_key,
            )

        def shape() -> Shape[T] | None:
            return _shape(model, prompt, output)

        return AnswerStream(rounds, shape)

    async def map(
        self,
        model: Levels,
        rows: Iterable[object] | str | Path,
        prompt: str | FilePrompt | Callable[[Row], Prompt | Filled] = TEXT,
        *,
        output: type[T] | Mapping[str, Any] | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        concurrency: int | Literal["auto"] = "auto",
        resume: str | Path | None = None,
        retry_failed: bool = False,
        progress: bool | Callable[[Progress], None] = False,
    ) -> Run[T]:
        """Ask the same of many rows. See docs/batch.md.

        Args:
            rows: Mappings, texts, or paths of files to be read by the model; or a `.jsonl`, `.csv` or `.txt` file; read one after the other.
            prompt: A text with `{name}` for a row's members (a text is `{text}`), a prompt file's, or a function of the row.
            timeout: Seconds for one row.
            concurrency: Rows at once, 1 or more; `auto` follows the rate limits.
            resume: A `.jsonl` file for the results. Rows that it has are not asked again, so that a run that was killed goes on.
            retry_failed: Ask those again that failed in an earlier run.
            progress: A line on standard error, or a function that hears of each row.

        Returns:
            What became of every row; a row that fails does not raise.

        Raises:
            InvalidRequest: The rows cannot be read, or are not those that `resume` has.
        """
        source, shape = Rows(rows), None if output is None else shape_of(output)
        job = _job(model, prompt, shape, system, max_tokens, temperature)
        make = _of_row(prompt)

        async def ask(row: Row) -> Rounds[T]:
            return await self._rounds(
                model,
                make(row),
                output,
                system=system,
                max_tokens=max_tokens,
                temperature=temperature,
                timeout=timeout,
                user=user,
                tags=tags,
            )

        if concurrency != "auto" and concurrency < 1:
            raise InvalidRequest(
                f"concurrency must be 1 or more, or 'auto', not {concurrency!r}", param="concurrency"
            )
        journal = Journal(resume)
        report = _reporter(progress)

        async def go(*, failed_too: bool) -> Run[T]:
            total = source.total
            journal.lock()
            try:
                stopped = await run_rows(
                    source,
                    journal,
                    ask,
                    job=job,
                    pace=Pace(None if concurrency == "auto" else concurrency),
                    clock=self.engine.clock,
                    total=total,
                    retry_failed=failed_too,
                    report=report,
                )
            finally:
                journal.unlock()
            return Run(journal, shape, total, stopped, again)

        async def again() -> Run[T]:
            if not source.again:
                raise InvalidRequest("the rows were an iterator, which is read only once", param="rows")
            return await go(failed_too=True)

        try:
            return await go(failed_too=retry_failed)
        except BaseException:
            journal.close()
            raise

    async def retry_failed(self, run: Run[T]) -> Run[T]:
        """Ask the failed rows of `run` once more, and those that it left undone; the same results, brought up to date.

        Raises:
            InvalidRequest: Its rows were an iterator.
        """
        return await run.again()

    async def embed(
        self,
        model: Levels,
        texts: str | Sequence[str],
        *,
        dimensions: int | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Embedded:
        """The vectors of `texts`, many in one request; a text that this client has asked for before costs nothing. See docs/embeddings.md.

        Args:
            model: As for `chat`; of a cascade only the targets that have the first one's model, since vectors of two models cannot be
                compared.
            dimensions: Of the vectors, where the model can shorten them.
            timeout: Seconds for each request.
            user, tags: For the ledger.

        Raises:
            InvalidRequest: A text is empty.
            AllTargetsFailed: Every level is spent.
        """
        if self._embedder is None:
            self._embedder = Embedder(self.engine)
        scopes = open_scopes(self)
        return await self._embedder(
            self._route(model, EMBEDDINGS),
            [texts] if isinstance(texts, str) else list(texts),
            dimensions=dimensions,
            timeout=timeout,
            user=user,
            tags={name: value for scope in scopes for name, value in scope.tags.items()} | dict(tags or {}),
            pots=tuple(pot for scope in scopes for pot in scope.pots.values()),
        )

    async def models(self) -> list[ModelInfo]:
        """The names that can be asked: own ones, routes, and the catalogue's models of providers whose key is there."""
        engine = self.engine
        named = [ModelInfo(name) for name in (*self._models, *engine.settings.routes)]
        for provider in engine.settings.providers.values():
            if provider.usable:
                for model in engine.catalog.models(provider.name):
                    found = engine.catalog.model(provider.name, model)
                    if found is not None:
                        named.append(
                            ModelInfo(f"{provider.name}/{model}", found.context_total, found.max_output)
                        )
        return [*named, ModelInfo("local/default", engine.settings.local.context)]

    async def estimate(
        self, model: Levels, prompt: Prompt, *, system: str | None = None, max_tokens: int | None = None
    ) -> Estimated:
        """What `chat` with the same arguments would take, without sending anything."""
        chat = Chat(model="", messages=await _messages(prompt, system), max_tokens=max_tokens)
        target = self._route(model).cascade[0]
        info = self.engine.catalog.model(target.provider, target.model)
        estimate = estimate_chat(chat)
        limit = max_tokens if max_tokens is not None else (info.max_output if info is not None else None)
        cost = fits = None
        if limit is not None:
            usage = Usage(input_tokens=estimate.bound, output_tokens=limit)
            cost = self.engine.catalog.cost(target.provider, target.model, usage)
        if info is not None and info.context_total is not None:
            fits = estimate.bound + (limit or 0) <= info.context_total
        return Estimated(str(target), estimate.likely, estimate.bound, limit, cost, fits)

    def budget(
        self,
        *,
        usd: str | float | Decimal | None = None,
        tokens: int | None = None,
        on_limit: Literal["refuse", "downgrade"] = "refuse",
        tags: Mapping[str, str] | None = None,
    ) -> BudgetScope:
        """A hard budget for what is asked inside: ``with llm.budget(usd="0.50") as spent: ...``, then `spent.spent_usd`.

        Args:
            usd: US dollars, exact: `"0.50"`; a float is read as it prints.
            tokens: Input and output together.
            on_limit: `refuse` raises `BudgetExceeded`; `downgrade` goes on to the next target of the cascade that fits.
            tags: Put on every request inside.

        Raises:
            ValueError: Neither limit, a negative one, or dollars with more than nine decimals.
        """
        return BudgetScope(self, usd=usd, tokens=tokens, on_limit=on_limit, tags=tags)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _rounds(
        self,
        model: Levels | Filled,
        prompt: Prompt | Filled | None,
        output: type[T] | Mapping[str, Any] | None,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        tools: Sequence[Tool | Callable[..., object]] = (),
        max_rounds: int = 1,
        approve: Approve | None = None,
        tool_timeout: float = 60.0,
        tool_choice: ToolChoice | None = None,
        response_format: ResponseFormat | None = None,
        reasoning: Reasoning | None = None,
        timeout: float | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        cache: CacheUse = "use",
        idempotency_key: str | None = None,
    ) -> Rounds[T]:
        if cache not in CACHE_CONTROL:
            raise InvalidRequest(
                f"cache must be one of {', '.join(CACHE_CONTROL)}, not {cache!r}", param="cache"
            )
        levels, text, filled = _told(model, prompt)
        shape: Shape[T] | None = _shape(model, prompt, output)
        if shape is not None:
            if response_format is not None:
                raise InvalidRequest("give output= or response_format=, not both", param="output")
            response_format = ResponseFormat(
                kind="json_schema", name=shape.name, schema=msgspec.Raw(msgspec.json.encode(shape.asked))
            )
        given = [tool if isinstance(tool, Tool) else function_tool(tool) for tool in tools]
        functions = {tool.name: tool for tool in given if isinstance(tool, FunctionTool)}
        told = tuple(tool.tool if isinstance(tool, FunctionTool) else tool for tool in given)
        scopes = open_scopes(self)
        tagged = {name: value for scope in scopes for name, value in scope.tags.items()} | dict(tags or {})
        if filled is not None:
            tagged["prompt"] = filled.version
        config = {} if filled is None else _config(filled)
        chat = Chat(
            model="",
            messages=await _messages(text, system),
            max_tokens=max_tokens if max_tokens is not None else config.get("max_tokens"),
            temperature=temperature if temperature is not None else config.get("temperature"),
            top_p=top_p if top_p is not None else config.get("top_p"),
            stop=tuple(stop) or tuple(config.get("stop", ())),
            seed=seed if seed is not None else config.get("seed"),
            tools=told,
            tool_choice=tool_choice,
            response_format=response_format,
            reasoning=reasoning,
        )
        asked = Asked(
            route=self._route(levels),
            chat=chat,
            shape=shape,
            functions=functions,
            max_rounds=max_rounds,
            approve=approve,
            tool_timeout=tool_timeout,
            timeout=timeout,
            user=user,
            tags=tagged,
            cache_control=CACHE_CONTROL[cache],
            idempotency_key=idempotency_key,
            pots=tuple(pot for scope in scopes for pot in scope.pots.values()),
        )
        return Rounds(self.engine, asked)

    def _route(self, model: Levels, dialect: str = "") -> Route:
        own = self._models.get(model) if isinstance(model, str) else None
        return self.engine.levels(own if own is not None else model, dialect)


def _must_be_time(timeout: float | None) -> None:
    if timeout is not None and not timeout > 0:
        raise InvalidRequest(f"timeout must be seconds above 0, not {timeout!r}", param="timeout")


def _told(model: Levels | Filled, prompt: Prompt | Filled | None) -> tuple[Levels, Prompt, Filled | None]:
    """Model, words, and the filled prompt among the arguments."""
    filled = model if isinstance(model, Filled) else prompt if isinstance(prompt, Filled) else None
    if isinstance(model, Filled):
        if prompt is not None:
            raise InvalidRequest(
                "a filled prompt has the words already: give a model and the prompt, or only the prompt"
            )
        if model.model is None:
            raise InvalidRequest("the prompt names no model: give one as the first argument")
        return model.model, model.messages, filled
    if prompt is None:
        raise InvalidRequest("there is no prompt: give text, parts or messages", param="prompt")
    return model, prompt.messages if isinstance(prompt, Filled) else prompt, filled


def _shape(
    model: Levels | Filled, prompt: Prompt | Filled | None, output: type[T] | Mapping[str, Any] | None
) -> Shape[T] | None:
    if output is not None:
        return shape_of(output)
    filled = model if isinstance(model, Filled) else prompt
    if isinstance(filled, Filled) and filled.output is not None:
        return shape_of(filled.output)
    return None


def _of_row(prompt: str | FilePrompt | Callable[[Row], Prompt | Filled]) -> Callable[[Row], Prompt | Filled]:
    """What a row is asked."""
    if isinstance(prompt, str):
        return asked(prompt)
    return prompt.fill if isinstance(prompt, FilePrompt) else prompt


def _job(
    model: Levels,
    prompt: str | FilePrompt | Callable[[Row], Prompt | Filled],
    shape: Shape[Any] | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> str:
    """What all rows of a batch share. Of a function only the name is known."""
    said = (
        prompt.version
        if isinstance(prompt, FilePrompt)
        else prompt
        if isinstance(prompt, str)
        else getattr(prompt, "__qualname__", "")
    )
    schema = None if shape is None else shape.schema
    return msgspec.json.encode(
        [model, said, schema, system, max_tokens, temperature], order="sorted"
    ).decode()


def _reporter(progress: bool | Callable[[Progress], None]) -> Callable[[Progress, float, bool], None]:
    if progress is True:
        return Drawn(sys.stderr).show
    if progress is False:
        return lambda progress, now, last: None
    return lambda said, now, last: progress(said)


_CONFIG: Mapping[str, tuple[str, ...]] = {
    "max_tokens": ("max_tokens", "maxOutputTokens", "max_output_tokens"),
    "temperature": ("temperature",),
    "top_p": ("top_p", "topP"),
    "stop": ("stop", "stopSequences", "stop_sequences"),
    "seed": ("seed",),
}
"""Our names for what a prompt file may set, each with the names that dotprompt's and the providers' own files use."""


def _config(filled: Filled) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = {name: ours for ours, names in _CONFIG.items() for name in names}
    for name, value in filled.config.items():
        if name not in known:
            raise InvalidRequest(
                f"the prompt {filled.version} sets {name!r}; there is: {', '.join(sorted(known))}"
            )
        found[known[name]] = value
    return found


async def _messages(prompt: Prompt, system: str | None) -> tuple[Message, ...]:
    reads_files = isinstance(prompt, Sequence) and any(isinstance(part, Path) for part in prompt)
    make = functools.partial(as_messages, prompt, system)
    return await asyncio.to_thread(make) if reads_files else make()
