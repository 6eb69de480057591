"""The closed loop: thirty simulated days of an application that knows only the endpoint.

    python -m benchmarks.closed_loop [--quick] [--days 30] [--requests 250] [--topic-day 20]

At first the teacher answers all; its answers train a student (family `linear`), whose cascade takes over
what it is sure of. Each night the audit is labelled and counted (flywheel.stages.watch); a run of the wheel
begins every fourth night, and in the night that drift is told. From `--topic-day` on, four of ten requests
are of a topic that nobody has seen, in words that so far were another class's.
Endpoint, teacher (one that knows each headline's class), store and
stages are real; the clock of requests is simulated. By day: share answered by students, their agreement
with the teacher, cost; at the end, texts that the teacher was paid for twice. `--quick`: eight days, the
topic on the seventh.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flywheel.config import Config
from flywheel.config.loading import validate_config
from flywheel.demo.headlines import generate
from flywheel.jobs.spec import CHAMPION
from flywheel.promotion.champion import read_champion
from flywheel.report.model import Report
from flywheel.runs.plan import make_plan
from flywheel.runs.run import Run
from flywheel.runtimes.job_command import run_job
from flywheel.serving import app as endpoint
from flywheel.stages import pipeline as wheel
from flywheel.stages.watch import watch
from flywheel.workloads.workload import Workload

EVERY = 4
CALLERS = 8
TOPIC = "Product Approval"


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--requests", type=int, default=250)
    parser.add_argument("--topic-day", type=int, default=20)
    arguments = parser.parse_args()
    days, topic_day = (8, 7) if arguments.quick else (arguments.days, arguments.topic_day)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(Path(folder), days, arguments.requests, topic_day)
        rows = asyncio.run(loop.run())
    told = next((row["day"] for row in rows if row["day"] >= topic_day and row["alarms"]), None)
    print(
        json.dumps(
            {
                "name": "closed_loop",
                "ours": rows[topic_day - 2]["by_students"],
                "peer": 0.0,
                "ratio": None,
                "unit": "share answered by students on the day before the topic",
                "paid_twice": loop.teacher.paid_twice(),
                "topic_day": topic_day,
                "topic_told_on": told,
                "false_alarms": sum(bool(row["alarms"]) for row in rows if row["day"] < topic_day),
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "machine": platform.machine(),
                "rows": rows,
                "seconds": round(time.monotonic() - started, 1),
            }
        )
    )


class Teacher:
    """Knows the class of each headline, and which it was asked for."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self.labels = workload, dict[str, str]()
        self.asked: Counter[str] = Counter()

    def app(self) -> Starlette:
        """Return it as an OpenAI-compatible endpoint."""
        return Starlette(routes=[Route("/v1/chat/completions", self._answer, methods=["POST"])])

    def paid_twice(self) -> int:
        """Return how many texts it was asked for more than once."""
        return sum(count > 1 for count in self.asked.values())

    async def _answer(self, request: Request) -> JSONResponse:
        text = self._workload.text_of(orjson.loads(await request.body())["messages"]) or ""
        self.asked[text] += 1
        answer = self._workload.answer_for(self.labels.get(text, "OTHER"))
        message = {"role": "assistant", "content": answer}
        usage = {"prompt_tokens": 900, "completion_tokens": 6, "total_tokens": 906}
        return JSONResponse(
            {"model": "teacher", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
        )


class Loop:
    """Days of requests, nights of watching, runs of the wheel."""

    def __init__(self, folder: Path, days: int, requests: int, topic_day: int) -> None:
        self._folder, self._days, self._requests, self._topic_day = folder, days, requests, topic_day
        self._workload = Workload.load("include/workloads/news_classifier.yaml")
        self.teacher = Teacher(self._workload)
        # Decisions on a champion are taken by the machine's clock, so the simulated days lie ahead of it.
        self._start = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        self._now = self._start.timestamp()
        self._rng = random.Random(3)

    async def run(self) -> list[dict[str, Any]]:
        """Return what each day brought."""
        rows: list[dict[str, Any]] = []
        headlines = iter(generate(self._days * self._requests))
        clock = SimpleNamespace(time=lambda: self._now, monotonic=time.monotonic)
        with serve_teacher(self.teacher) as address:
            config = self._config(address)
            endpoint.time = clock  # type: ignore[attr-defined]  # of requests alone
            serving = endpoint.Serving(config)
            app = serving.app()
            transport = httpx.ASGITransport(app=app)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://endpoint", timeout=60) as client,
            ):
                for day in range(1, self._days + 1):
                    texts = [self._text(day, next(headlines)) for _ in range(self._requests)]
                    answers = await self._ask(client, day, texts)
                    await asyncio.sleep(8)  # what was asked gets into the store
                    moment = self._start + timedelta(days=day)
                    night = await asyncio.to_thread(watch, config, moment)
                    ran = ""
                    if night.alarms or day % EVERY == 0:
                        ran = await asyncio.to_thread(self._turn, config, day, moment)
                        await serving.models.follow()
                    students = [(text, got) for text, got in answers if got["student"] != "teacher"]
                    right = sum(self.teacher.labels[text] == got["label"] for text, got in students)
                    rows.append(
                        {
                            "day": day,
                            "by_students": round(len(students) / len(answers), 3),
                            "agreement": round(right / len(students), 3) if students else None,
                            "audited": night.agreement.value,
                            "cost": night.cost,
                            "alarms": night.alarms,
                            "run": ran,
                        }
                    )
                    print(json.dumps(rows[-1]), flush=True)
        return rows

    async def _ask(
        self, client: httpx.AsyncClient, day: int, texts: list[str]
    ) -> list[tuple[str, dict[str, Any]]]:
        found: list[tuple[str, dict[str, Any]]] = []
        left = iter(enumerate(texts))

        async def call() -> None:
            for place, text in left:
                self._now = (
                    self._start + timedelta(days=day - 1, seconds=80_000 * place / len(texts))
                ).timestamp()
                body = {"model": self._workload.id, "messages": [{"role": "user", "content": text}]}
                answer = await client.post("/v1/chat/completions", json=body)
                answer.raise_for_status()
                found.append((text, answer.json()["flywheel"]))

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        return found

    def _text(self, day: int, headline: Any) -> str:
        text, label = " ".join(headline.text.split()), headline.teacher_label
        if day >= self._topic_day and self._rng.random() < 0.4:
            name = self._rng.choice(["Vantor", "Quillo", "Brexa"])
            number = self._rng.randrange(10**6)
            text = f"Court lets {name} sell gene ampoule {number} despite lawsuit of patients"
            label = TOPIC
        self.teacher.labels[text] = label
        return text

    def _turn(self, config: Config, day: int, moment: datetime) -> str:
        """Turn the wheel once; return what became of it."""
        run = Run.create(make_plan(config, run_id=f"day-{day}", cutoff=moment))
        wheel.label(run)
        wheel.ingest(run)
        try:
            wheel.curate(run)
        except Exception as error:  # too few records yet: the teacher goes on
            return f"nothing to train on: {error}"[:120]
        if read_champion(run.root, run.plan.workload_id, run.plan.client_id) is not None:
            run_job("evaluate", wheel.write_spec(run, "champion_eval", CHAMPION))
        for candidate in run.candidates:
            run_job("customize", wheel.write_spec(run, "customize", candidate.student, candidate.size))
            run_job("evaluate", wheel.write_spec(run, "evaluate", candidate.student, candidate.size))
        wheel.score(run)
        wheel.promote(run)
        report = Report.read(Path(run.root.url) / run.path)
        champion = read_champion(run.root, run.plan.workload_id, run.plan.client_id)
        cascade = champion.cascade.reason if champion and champion.cascade else "no cascade"
        return f"{report.decision.state}; F1 {report.best.score if report.best else None}; {cascade}"

    def _config(self, address: str) -> Config:
        folder = self._folder
        return validate_config(
            {
                "client_id": "application",
                "nims": [{"model_name": "flywheel/linear", "name": "linear", "family": "linear"}],
                "sizes": [400, 1200, 2400, 4800],
                "store": {"path": str(folder / "records.sqlite")},
                "artifacts": {"root": str(folder / "artifacts")},
                "mlflow_config": {"tracking_uri": f"sqlite:///{folder}/mlflow.db"},
                "data_split_config": {
                    "split": "random",
                    "eval_size": 200,
                    "min_total_records": 500,
                    "val_ratio": 0.02,
                    "calibration_ratio": 0.35,
                },
                "student_prompt": "text",
                "evaluation_config": {"workload_type": "classification", "decoding": "labels"},
                "promotion": {"within": 0.03, "min_eval": 1, "of": "best"},
                "teacher": {
                    "base_url": f"{address}/v1",
                    "model": "teacher",
                    "prices": {"prompt": 0.6, "completion": 0.6},
                },
                "serving": {
                    "cascade": {"agreement": 0.85},
                    "log": "all",
                    "audit": 0.3,
                    "log_folder": str(folder / "traffic"),
                },
            },
            "closed loop",
        )


@contextmanager
def serve_teacher(teacher: Teacher) -> Iterator[str]:
    """Run the teacher in a thread; give its address."""
    server = uvicorn.Server(uvicorn.Config(teacher.app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
