"""The models of the endpoint, by name: champions as they change, candidates, and what each is made of."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from flywheel.artifacts.root import ArtifactRoot
from flywheel.common.errors import ArtifactError, FlywheelError
from flywheel.config import Config
from flywheel.jobs.families import family_of
from flywheel.jobs.result import CustomizeResult
from flywheel.jobs.spec import RESULT
from flywheel.promotion.champion import VIEW, Champion, Decision, read_state
from flywheel.runs.run import Run
from flywheel.serving.batches import Batches
from flywheel.serving.sources import Sources
from flywheel.serving.student import Answer, NotYetError, Question, Source
from flywheel.serving.vllm import VllmStudent
from flywheel.workloads.workload import Workload

log = logging.getLogger(__name__)

# What may stand in a path: students' short names do.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
# Candidates that are kept loaded besides the champions.
MOST_CANDIDATES = 4


class UnknownModelError(Exception):
    """There is no model of that name."""


@dataclass(frozen=True)
class Served:
    """A student that answers.

    Attributes:
        source: what it is made of.
        ask: gives the answer to a request.
        stop: lets go of what it holds elsewhere, when no request of its is left.
    """

    source: Source
    ask: Callable[[Question], Awaitable[Answer]]
    stop: Callable[[], Awaitable[None]] | None = None

    @property
    def adapter(self) -> str:
        """The key of its adapter."""
        return self.source.adapter


class Models:
    """What the endpoint answers with.

    A champion is named by its workload, and by `workload:client` where the client is not the config's; the
    name stays when the champion changes. The next one is loaded and warm before requests go to it, and those
    that began with the one before it are answered by that one.

    Args:
        config: of the experiment: its students, workload and client.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._root = ArtifactRoot(config.artifacts.root)
        self._sources = Sources(self._root, config.nims, config.serving.cascade)
        self._workload = Workload.load(config.workload)
        self._champions: dict[str, Served] = {}
        self._reasons: dict[str, str] = {}
        self._there: dict[str, Champion] = {}
        self._stopped: dict[str, str] = {}
        self._failed: dict[str, str] = {}  # the adapters that the reasons are about
        self._candidates: OrderedDict[str, Served] = OrderedDict()
        self._loading = asyncio.Lock()
        self._coming: dict[str, asyncio.Task[Served]] = {}
        self._going: set[asyncio.Task[None]] = set()
        self._thread = ThreadPoolExecutor(1, "student")

    @property
    def champions(self) -> dict[str, Served]:
        """The champions that answer, by name."""
        return dict(self._champions)

    @property
    def answers(self) -> dict[str, str]:
        """The keys of the adapters that answer, by `workload/client`."""
        return {
            _whose(champion): self._champions[name].adapter
            for name, champion in self._there.items()
            if name in self._champions
        }

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """The adapters in force that cannot be loaded, and why, by `workload/client`."""
        return {
            _whose(champion): {"adapter": champion.adapter, "reason": self._reasons[name]}
            for name, champion in self._there.items()
            if name in self._reasons and self._failed.get(name) == champion.adapter
        }

    def names_champion(self, name: str) -> bool:
        """Whether a name is a champion's, also of one that does not answer yet."""
        return name in self._champions or name in self._reasons or name == self._workload.id

    @property
    def reasons(self) -> dict[str, str]:
        """Why the newest champion of a name does not answer, by name."""
        return dict(self._reasons)

    @property
    def stopped(self) -> dict[str, str]:
        """Who stopped a champion, which is loaded and answers nothing, by name."""
        return dict(self._stopped)

    async def get(self, name: str) -> Served:
        """Return a model; a candidate is loaded when it is first asked for.

        Raises:
            UnknownModelError: there is no such model.
            NotYetError: it cannot be loaded, or a person stopped it.
        """
        if name in self._stopped:
            raise NotYetError(self._stopped[name])
        if name in self._champions:
            return self._champions[name]
        if name in self._reasons:
            raise NotYetError(self._reasons[name])
        if name == self._workload.id:
            raise NotYetError(f"{name} has no champion yet: nothing was promoted")
        if name not in self._candidates:
            # Whoever asks first may not wait to the end: it is loaded all the same, for those who come again.
            if name not in self._coming:
                coming = self._coming[name] = asyncio.create_task(self._take_in(name))
                coming.add_done_callback(partial(self._came, name))
            return await asyncio.shield(self._coming[name])
        self._candidates.move_to_end(name)
        return self._candidates[name]

    def _came(self, name: str, coming: asyncio.Task[Served]) -> None:
        del self._coming[name]
        if not coming.cancelled():
            coming.exception()  # told to whoever still waits

    async def _take_in(self, name: str) -> Served:
        async with self._loading:
            try:
                source = await asyncio.to_thread(self._candidate, name)
                served = self._candidates[name] = await self._load(source)
            except FlywheelError as error:
                raise NotYetError(str(error)) from None
            while len(self._candidates) > MOST_CANDIDATES:
                self._let_go(self._candidates.popitem(last=False)[1])
            return served

    async def follow(self) -> None:
        """Look for other champions, and answer with them once they are warm.

        One that cannot be loaded leaves the one before it answering, and its reason is kept and logged.
        """
        states = await asyncio.to_thread(self._states)
        there = self._there = {name: state.champion for name, state in states.items() if state.champion}
        self._stopped = {name: state.stop.sentence for name, state in states.items() if state.stop}
        for name, champion in there.items():
            served = self._champions.get(name)
            if served is not None and served.adapter == champion.adapter:
                self._reasons.pop(name, None)
                continue
            async with self._loading:
                try:
                    source = await asyncio.to_thread(self._sources.in_force, champion)
                    self._champions[name] = await self._load(source)
                    if served is not None:
                        self._let_go(served)
                    self._reasons.pop(name, None)
                    log.info("%s is answered by %s, adapter %s", name, source.name, source.adapter)
                except (FlywheelError, OSError) as error:
                    if self._reasons.get(name) != str(error):
                        log.error("%s: %s cannot be served: %s", name, champion.name, error)
                    self._reasons[name] = str(error)
                    self._failed[name] = champion.adapter
        for name in set(self._champions) - set(there):
            self._let_go(self._champions.pop(name))
            log.info("%s has no champion any more: the teacher is in production", name)

    async def close(self) -> None:
        """Let go of what is held for those that answered before; those that answer stay loaded."""
        for task in (*self._going, *self._coming.values()):
            task.cancel()

    async def _load(self, source: Source) -> Served:
        settings = self._config.serving
        server = settings.server_for(source.student.name, classifies=source.classifies)
        if server is not None:
            at_vllm = VllmStudent(source, server, settings.timeout_seconds)
            await at_vllm.start()
            return Served(source, at_vllm.ask, at_vllm.stop)
        loop = asyncio.get_running_loop()
        # In a thread of its own: the students that answer go on.
        student = await loop.run_in_executor(None, family_of(source.student).serve, source)
        batches: Batches[Question, Answer] = Batches(
            student.answer,
            batch_size=settings.batch_size,
            wait_ms=settings.wait_ms,
            most_waiting=settings.most_waiting,
            thread=self._thread,
        )
        return Served(source, batches.ask)

    def _let_go(self, served: Served) -> None:
        """Stop one that answered until now, when its last requests have ended: no name of it may be left."""
        if served.stop is not None:
            task = asyncio.create_task(self._stop(served))
            self._going.add(task)
            task.add_done_callback(self._going.discard)

    async def _stop(self, served: Served) -> None:
        await asyncio.sleep(self._config.serving.timeout_seconds)
        in_use = [*self._champions.values(), *self._candidates.values()]
        assert served.stop is not None
        if all(one.adapter != served.adapter for one in in_use):
            await served.stop()

    def _states(self) -> dict[str, Decision]:
        """Return the states that have a champion by its name; one whose decisions are damaged is logged."""
        found: dict[str, Decision] = {}
        for workload in self._root.list("champions"):
            for client in self._root.list(f"champions/{workload}"):
                view = f"champions/{workload}/{client}/{VIEW}"
                if not self._root.exists(view):
                    continue
                try:
                    seen = Champion.model_validate(self._root.read_json(view))
                    state = read_state(self._root, seen.workload_id, seen.client_id)
                except (ArtifactError, ValueError) as error:
                    log.error("%s/%s: %s", self._root.url, view, error)
                    continue
                if state is not None and state.champion is not None:
                    found[self._name(state.champion)] = state
        return found

    def _name(self, champion: Champion) -> str:
        own = champion.client_id == self._config.client_id
        return champion.workload_id if own else f"{champion.workload_id}:{champion.client_id}"

    def _candidate(self, name: str) -> Source:
        """Return what `STUDENT@SIZE` or `MODEL@ADAPTER` is made of.

        Raises:
            UnknownModelError: there is none.
        """
        model, _, rest = name.rpartition("@")
        is_size = rest.isascii() and rest.isdigit() and _NAME.fullmatch(model) is not None
        for champion in [state.champion for state in self._states().values() if state.champion]:
            run = Run(self._root, champion.run_id)
            if is_size and self._root.exists(f"{run.path}/jobs/{model}@{rest}/evaluate.json"):
                return self._sources.candidate(run, model, rest, champion.metric)
        known = next((one for one in self._config.nims if one.model_name == model), None)
        if known is None or not (rest.isascii() and rest.isalnum()) or not self._root.find("adapters", rest):
            raise UnknownModelError(name)
        folder = self._root.fetch("adapters", rest)
        made = CustomizeResult.model_validate_json((folder / RESULT).read_bytes())
        if made.student != known.name:
            raise UnknownModelError(name)
        return Source(
            name=f"{made.student} @ {made.size}",
            student=known,
            adapter=rest,
            folder=folder,
            workload=self._workload,
            asked_text=made.short_prompt is not None,
            temperature=None,
            classifies=bool(self._workload.classes)
            and self._config.evaluation_config.workload_type in ("auto", "classification"),
        )


def _whose(champion: Champion) -> str:
    return f"{champion.workload_id}/{champion.client_id}"
