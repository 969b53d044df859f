"""The JSON API and the page, as an ASGI application. ``/api/openapi.json`` describes the API."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from trm_fast.errors import UserError
from trm_fast.training.keys import changed_keys, config_keys
from trm_fast.training.read_config import preset_names, read_preset
from trm_fast.version import __version__
from trm_fast.web import evaluating, solving, tools, views
from trm_fast.web.batching import Batcher, Stopped
from trm_fast.web.catalog import RUNS, Catalog
from trm_fast.web.runs import ResumeRequest, Runs, StartRequest

STATIC = Path(__file__).parent / "static"
MAX_STREAMS = 64
"""Number of requests that solve or evaluate at the same time."""
SAMPLES = 4
"""Number of sample predictions of a run."""

Emit = Callable[[dict[str, Any]], None]
Work = Callable[[Emit, Callable[[], bool]], None]


class Service:
    """What the requests share: models, runs, the batcher and the threads."""

    def __init__(self, catalog: Catalog, runs: Runs) -> None:
        self.catalog, self.runs = catalog, runs
        self.batcher = Batcher()
        self.threads = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="request")
        self.closing = threading.Event()
        self.busy = 0
        self._samples: dict[str, tuple[int, list[dict[str, Any]]]] = {}

    def close(self) -> None:
        """Ends all work."""
        self.closing.set()
        self.batcher.close()
        self.threads.shutdown(wait=True, cancel_futures=True)

    async def stream(self, work: Work) -> AsyncIterator[bytes]:
        """Runs ``work`` in a thread, and yields what it emits as lines of JSON. It stops when the client leaves."""
        loop, left = asyncio.get_running_loop(), threading.Event()
        events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def emit(event: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def run() -> None:
            try:
                work(emit, lambda: left.is_set() or self.closing.is_set())
            except UserError as error:
                emit({"event": "error", "error": str(error)})
            except Stopped:
                emit({"event": "error", "error": "stopped"})
            except Exception as error:
                emit({"event": "error", "error": f"a bug in trm-fast ({type(error).__name__}): {error}"[:500]})
            finally:
                emit(None)

        self.reserve()
        try:
            self.threads.submit(run)
            while (event := await events.get()) is not None:
                yield json.dumps(event, separators=(",", ":")).encode() + b"\n"
        finally:
            left.set()
            self.busy -= 1

    def reserve(self) -> None:
        """Counts a request that computes.

        Raises:
            HTTPException: too many do.
        """
        if self.busy >= MAX_STREAMS:
            raise HTTPException(503, "the server is busy: try again", {"Retry-After": "1"})
        self.busy += 1

    def samples(self, name: str) -> dict[str, Any]:
        """Answers of a run's newest checkpoint to a few questions, always the same ones."""
        run = self.runs.get(name)
        steps = run["checkpoints"]
        if not steps:
            return {"step": None, "samples": [], "view": None}
        located = self.catalog.load(RUNS + name)
        view = views.task_view(located.task)
        step, samples = self._samples.get(name, (None, []))
        if step != steps[-1]:
            samples = []
            for seed in range(SAMPLES if view["generates"] else 0):
                events: list[dict[str, Any]] = []
                text = located.task.generate(seed).text
                options = solving.SolverOptions(rollouts=1, symmetries=1)
                solving.solve(located, text, options, self.batcher, events.append, self.closing.is_set)
                last = next(event for event in reversed(events) if event["event"] == "step")
                samples.append(
                    {"question": events[0], "answer": events[-1] | {"cell_confidence": last["cell_confidence"]}}
                )
            self._samples[name] = (steps[-1], samples)
        return {"step": steps[-1], "samples": samples, "view": view}


def make_app(service: Service) -> FastAPI:
    """The application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="trm_fast", version=__version__, openapi_url="/api/openapi.json", docs_url=None, redoc_url=None,
        lifespan=lifespan, summary="Tiny Recursive Models: solving, training and evaluation.",
    )  # fmt: skip
    _add_errors(app)
    _add_models(app, service)
    _add_solving(app, service)
    _add_runs(app, service)

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    app.state.service = service
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def _add_errors(app: FastAPI) -> None:
    """Every error is ``{"error": MESSAGE}``."""

    @app.exception_handler(UserError)
    def mistake(request: HTTPRequest, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(HTTPException)
    def refused(request: HTTPRequest, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(404)
    def missing(request: HTTPRequest, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "there is nothing at this address"}, 404)

    @app.exception_handler(RequestValidationError)
    def malformed(request: HTTPRequest, error: RequestValidationError) -> JSONResponse:
        parts = []
        for fault in error.errors()[:3]:
            where = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query", "path"))
            parts.append(f"{where}: {fault['msg']}" if where else str(fault["msg"]))
        return JSONResponse({"error": "; ".join(parts)}, 422)


def _add_models(app: FastAPI, service: Service) -> None:
    catalog = service.catalog

    @app.get("/api/info")
    def info() -> dict[str, Any]:
        """The version and the server's limits."""
        return {"version": __version__, "max_tries": solving.MAX_TRIES, "max_steps": solving.MAX_STEPS}

    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        """All models that can be used."""
        return [entry.to_json() for entry in catalog.entries()]

    @app.get("/api/models/{name:path}")
    def model(name: str) -> dict[str, Any]:
        """A model's size, and how its task is shown. The model is loaded, so that its first answer comes soon."""
        entry, located = catalog.entry(name), catalog.load(name)
        config = located.model.config
        return entry.to_json() | {
            "label": located.label, "parameters": located.model.num_parameters(), "depth": config.effective_depth,
            "max_supervision_steps": config.max_supervision_steps, "view": views.task_view(located.task),
            "options": dict(located.model.solver_defaults), "tools": tools.describes(located),
        }  # fmt: skip

    @app.get("/api/presets")
    def presets() -> list[str]:
        """The names of the presets."""
        return preset_names()

    @app.get("/api/presets/{name}")
    def preset(name: str, diff: Annotated[str | None, Query(max_length=100)] = None) -> dict[str, Any]:
        """Every key of a preset with its value, default and meaning, or those that differ from another preset."""
        for each in (name, *([diff] if diff else [])):
            if each not in preset_names():
                raise UserError(f"there is no preset {each[:100]!r}")
        keys = config_keys(read_preset(name), name)
        if diff:
            rows = changed_keys(keys, config_keys(read_preset(diff), diff))
            names = ("key", "value", "other", "meaning")
            return {"config": name, "other": diff, "keys": [dict(zip(names, row, strict=True)) for row in rows]}
        return {"config": name, "keys": [key.to_json() for key in keys]}


def _add_solving(app: FastAPI, service: Service) -> None:
    catalog = service.catalog

    def streamed(work: Work) -> StreamingResponse:
        if service.busy >= MAX_STREAMS:
            raise HTTPException(503, "the server is busy: try again", {"Retry-After": "1"})
        headers = {"cache-control": "no-store"}
        return StreamingResponse(service.stream(work), media_type="application/x-ndjson", headers=headers)

    @app.post("/api/solve")
    def solve(request: solving.SolveRequest) -> dict[str, Any]:
        """Solves a puzzle and returns the answer."""
        service.reserve()
        try:
            located = catalog.load(request.model)
            events: list[dict[str, Any]] = []
            solving.solve(
                located, request.puzzle, request.options, service.batcher, events.append, service.closing.is_set
            )
            return {name: value for name, value in events[-1].items() if name != "event"}
        finally:
            service.busy -= 1

    @app.post("/api/stream")
    async def stream(request: solving.SolveRequest) -> StreamingResponse:
        """Solves a puzzle and sends each supervision step as a line of JSON: ``question``, ``step``..., ``answer``."""

        def work(emit: Emit, stopped: Callable[[], bool]) -> None:
            located = catalog.load(request.model)
            solving.solve(located, request.puzzle, request.options, service.batcher, emit, stopped)

        return streamed(work)

    @app.post("/api/parse")
    def parse(request: solving.SolveRequest) -> dict[str, Any]:
        """Reads a puzzle without solving it."""
        task = catalog.load(request.model).task
        return views.question_view(task, task.parse(request.puzzle))

    @app.get("/api/generate")
    def generate(
        model: Annotated[str, Query(max_length=200)],
        seed: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        blanks: Annotated[int | None, Query(ge=0, le=81)] = None,
    ) -> dict[str, Any]:
        """A puzzle that the model's task makes; for sudoku, ``blanks`` is the number of cells to fill in."""
        task = catalog.load(model).task
        return views.question_view(task, solving.generated(task, seed, blanks))

    @app.post("/api/upload")
    async def upload(
        request: HTTPRequest, model: Annotated[str, Query(max_length=200)], name: Annotated[str, Query(max_length=200)]
    ) -> dict[str, Any]:
        """The puzzles of a file, whose bytes are the body: CSV, JSON, JSON Lines, text or PNG."""
        content = await request.body()

        def read() -> list[dict[str, Any]]:
            task = catalog.load(model).task
            return [views.question_view(task, question) for question in solving.read_upload(task, name, content)]

        return {"questions": await asyncio.get_running_loop().run_in_executor(service.threads, read)}

    @app.post("/api/tools")
    def call(request: tools.ToolRequest) -> dict[str, Any]:
        """What a tool-calling model does next in a conversation."""
        return tools.predict(catalog.load(request.model), request)

    @app.post("/api/evaluate")
    async def evaluate(request: evaluating.EvaluationRequest) -> StreamingResponse:
        """Evaluates a model on its test examples: ``progress``... and ``result`` as lines of JSON."""

        def work(emit: Emit, stopped: Callable[[], bool]) -> None:
            located = catalog.load(request.model)
            examples, source, notes = evaluating.test_examples(located)
            for note in notes:
                emit({"event": "note", "note": note})
            evaluating.evaluate(located, examples, source, request, service.batcher, emit, stopped)

        return streamed(work)

    @app.post("/api/evaluate/upload")
    async def evaluate_upload(
        request: HTTPRequest,
        model: Annotated[str, Query(max_length=200)],
        name: Annotated[str, Query(max_length=200)],
        limit: Annotated[int, Query(ge=1, le=evaluating.MAX_EXAMPLES)] = 200,
    ) -> StreamingResponse:
        """Evaluates a model on the examples of a file with answers, whose bytes are the body."""
        content = await request.body()
        about = evaluating.EvaluationRequest(model=model, limit=limit)

        def work(emit: Emit, stopped: Callable[[], bool]) -> None:
            located = catalog.load(model)
            examples = solving.read_examples(located.task, name, content)
            evaluating.evaluate(located, examples, name, about, service.batcher, emit, stopped)

        return streamed(work)


def _add_runs(app: FastAPI, service: Service) -> None:
    runs = service.runs

    @app.get("/api/runs")
    def list_runs() -> list[dict[str, Any]]:
        """All runs with their states, newest first."""
        return [runs.get(name) for name in runs.names()]

    @app.post("/api/runs", status_code=201)
    def start(request: StartRequest) -> dict[str, Any]:
        """Starts a run, as ``trm-fast train --preset PRESET --set KEY=VALUE`` does."""
        return runs.start(request)

    @app.get("/api/runs/{name}")
    def get(name: str) -> dict[str, Any]:
        """A run's state and its configuration."""
        return runs.get(name) | {"config": runs.config(name)}

    @app.get("/api/runs/{name}/metrics")
    def metrics(name: str, offset: Annotated[int, Query(ge=0)] = 0) -> dict[str, Any]:
        """A run's metrics from a byte offset on."""
        return runs.metrics(name, offset)

    @app.get("/api/runs/{name}/samples")
    def samples(name: str) -> dict[str, Any]:
        """What the newest checkpoint answers to a few questions."""
        return service.samples(name)

    @app.post("/api/runs/{name}/stop")
    def stop(name: str) -> dict[str, Any]:
        """Stops a run with a checkpoint."""
        return runs.stop(name)

    @app.post("/api/runs/{name}/resume")
    def resume(name: str, request: ResumeRequest) -> dict[str, Any]:
        """Continues a run from its newest checkpoint."""
        return runs.resume(name, request)
