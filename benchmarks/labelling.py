"""Label headlines through a local endpoint: the whole stage, beside wrk, httpx and aiohttp on the same one.

    python -m benchmarks.labelling [--quick]                     all three parts, about 6 minutes
    python -m benchmarks.labelling --only limit|open|memory      one part
    python -m benchmarks.labelling --only memory --headlines 1000000   10 to 15 minutes on 2 idle cores

- limit: an endpoint with CAPACITY places, log-normal latency with a median of 300 ms, and a queue. `ratio` is
  what the whole stage labels in a second, its slow start and its last answers included, by what wrk gets with
  twice as many connections as there are places; `settled_ratio` is that of the middle 80 % of the headlines.
  A plain httpx loop with as many connections is beside it.
- open: an endpoint that answers at once. Calls a second by the clock and by CPU second of the stage (which
  also reads, hashes, parses, stores durably and writes records), of our client alone, of httpx (one client,
  and one for each connection), of aiohttp and of wrk. Each has one core to itself where there are two.
- memory: the stage's peak of resident memory for 10,000 headlines and for many more.

The endpoint is benchmarks/chat_endpoint.py; the share of a core that it took is told beside each figure. wrk
is Debian's package of that name.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flywheel.config.loading import validate_config
from flywheel.runs.plan import Plan, make_plan
from flywheel.teacher.request import Requests
from flywheel.workloads.workload import Workload

CAPACITY = 64
MEDIAN_MS = 300
CONNECTIONS = 32
WORKLOAD = "include/workloads/news_classifier.yaml"
Call = Callable[[bytes], Awaitable[object]]


def main() -> None:
    """Measure and print; with --part, be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="20 s instead of 60, 50,000 headlines")
    parser.add_argument("--only", choices=["limit", "open", "memory"])
    parser.add_argument("--headlines", type=int, help="of the memory part; default 100,000")
    parser.add_argument("--seconds", type=float, help="of each measurement of the other parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(_part(arguments)))
        return
    seconds = arguments.seconds or (20.0 if arguments.quick else 90.0)
    headlines = arguments.headlines or (50_000 if arguments.quick else 100_000)
    result: dict[str, Any] = {"name": "labelling", "machine": _machine()}
    with tempfile.TemporaryDirectory(prefix="benchmark-labelling-") as temporary:
        folder = Path(temporary)
        if arguments.only in (None, "limit"):
            result |= _limit(folder, seconds)
        if arguments.only in (None, "open"):
            result["open"] = _open(folder, seconds)
        if arguments.only in (None, "memory"):
            result["memory"] = _memory(folder, headlines)
    print(json.dumps(result))


# -- the parts -----------------------------------------------------------------------------------------


def _limit(folder: Path, seconds: float) -> dict[str, Any]:
    options = ["--capacity", str(CAPACITY), "--median-ms", str(MEDIAN_MS)]
    connections = 2 * CAPACITY
    with _endpoint(*options) as url:
        wrk = _wrk(url, seconds, connections)
        count = round(wrk["per_second"] * seconds)
        ours = _measured(url, "stage", folder, count)
        httpx = _measured(url, "httpx", folder, min(count // 4, 1500), connections=connections)
    return {
        "ours": ours["per_second"],
        "peer": wrk["per_second"],
        "ratio": round(ours["per_second"] / wrk["per_second"], 3),
        "settled_ratio": round(ours["per_second_settled"] / wrk["per_second"], 3),
        "unit": "calls/s",
        "peer_name": f"wrk, {connections} connections",
        "peak_rss_mb": ours["peak_rss_mb"],
        "prompt_tokens_per_second": ours["prompt_tokens_per_second"],
        "limit": {
            "endpoint": f"{CAPACITY} places, log-normal latency, median {MEDIAN_MS} ms",
            "stage": ours,
            "wrk": wrk,
            "httpx_loop": httpx,
        },
    }


def _open(folder: Path, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {"connections": CONNECTIONS}
    with _endpoint(pinned=True) as url:
        results["wrk"] = _wrk(url, min(seconds, 10), CONNECTIONS)
        for part in ("client", "stage", "httpx", "httpx_each", "aiohttp"):
            trial = _measured(url, part, folder, 500, pinned=True)
            count = max(500, round(min(trial["per_second"] * seconds / 3, 20_000)))
            results[part] = _measured(url, part, folder, count, pinned=True)
    return results


def _memory(folder: Path, headlines: int) -> dict[str, Any]:
    with _endpoint() as url:
        few = _measured(url, "stage", folder, 10_000)
        many = _measured(url, "stage", folder, headlines)
    return {
        "peak_rss_mb_10000": few["peak_rss_mb"],
        f"peak_rss_mb_{headlines}": many["peak_rss_mb"],
        "ratio": round(many["peak_rss_mb"] / few["peak_rss_mb"], 3),
        "stage_10000": few,
        f"stage_{headlines}": many,
    }


# -- processes -----------------------------------------------------------------------------------------


@contextmanager
def _endpoint(*options: str, pinned: bool = False) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.chat_endpoint", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if pinned and (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(process.pid, {0})
            yield url
        finally:
            process.terminate()


def _stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.replace("/v1", "/stats")) as response:
        found: dict[str, Any] = json.load(response)
        return found


def _measured(
    url: str, part: str, folder: Path, count: int, *, connections: int = CONNECTIONS, pinned: bool = False
) -> dict[str, Any]:
    """Run a part in a process of its own; say what share of a core the endpoint took meanwhile."""
    command = [sys.executable, "-m", "benchmarks.labelling", "--part", f"{part}:{connections}", "--url", url]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        if part == "stage":
            _write_headlines(Path(own) / "headlines.csv", count)
        before = _stats(url)
        command += ["--folder", own, "--count", str(count)]
        if pinned and (os.cpu_count() or 1) > 1:
            command += ["--core", "1"]
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        after = _stats(url)
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    used = after["cpu_seconds"] - before["cpu_seconds"]
    result["endpoint_core_share"] = round(used / result["seconds"], 3)
    result["load"] = round(os.getloadavg()[0], 1)
    print(f"{part}: {json.dumps(result)}", file=sys.stderr)
    return result


def _wrk(url: str, seconds: float, connections: int) -> dict[str, Any]:
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    script = """
        local count = 0
        local before, after = %s, %s
        wrk.method = "POST"
        wrk.headers["Content-Type"] = "application/json"
        request = function()
            count = count + 1
            return wrk.format(nil, nil, nil, before .. "Acme unit " .. count .. after)
        end
        done = function(summary, latency, requests)
            local errors = summary.errors
            local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
            io.write(string.format("RESULT %%d %%f %%d\\n", summary.requests, summary.duration / 1e6, failed))
        end
    """
    before, after = _requests().body("\x01").decode().split("\\u0001")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script % (_lua(before), _lua(after)))
        file.flush()
        stats = _stats(url)
        command = [program, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s"]
        command += ["-s", file.name, f"{url}/chat/completions"]
        finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    line = next(line for line in finished.stdout.splitlines() if line.startswith("RESULT"))
    requests, took, failed = (float(part) for part in line.split()[1:])
    used = _stats(url)["cpu_seconds"] - stats["cpu_seconds"]
    result = {
        "per_second": round(requests / took, 1),
        "seconds": round(took, 1),
        "failed": int(failed),
        "endpoint_core_share": round(used / took, 3),
        "load": round(os.getloadavg()[0], 1),
    }
    print(f"wrk: {json.dumps(result)}", file=sys.stderr)
    return result


def _lua(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


# -- what a measured process does ----------------------------------------------------------------------


def _part(arguments: argparse.Namespace) -> dict[str, Any]:
    name, connections = arguments.part.split(":")
    if arguments.core is not None:
        os.sched_setaffinity(0, {arguments.core})
    if name == "stage":
        return _stage(arguments.url, arguments.folder, arguments.count)
    clients = {"client": _our_client, "httpx": _httpx, "httpx_each": _httpx_each, "aiohttp": _aiohttp}
    started, cpu = time.monotonic(), time.process_time()
    url = f"{arguments.url}/chat/completions"
    asyncio.run(clients[name](url, arguments.count, int(connections)))
    return _figures(arguments.count, started, cpu)


def _figures(count: int, started: float, cpu: float) -> dict[str, Any]:
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - cpu
    return {
        "calls": count,
        "seconds": round(seconds, 2),
        "per_second": round(count / seconds, 1),
        "per_cpu_second": round(count / cpu_seconds),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _stage(url: str, folder: Path, count: int) -> dict[str, Any]:
    """Run the whole stage."""
    from flywheel.stages.label import label

    memory: list[tuple[int, float]] = []
    middle: list[tuple[int, float]] = []

    def progress(settled: int) -> None:
        if 0.1 * count <= settled <= 0.9 * count:
            middle.append((settled, time.monotonic()))
        if not memory or settled - memory[-1][0] >= count // 20:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            memory.append((settled, round(pages * resource.getpagesize() / 2**20, 1)))

    started, cpu = time.monotonic(), time.process_time()
    result = label(_plan(url, folder), folder, progress)
    figures = _figures(result.labelled, started, cpu)
    assert result.labelled == count, result
    return figures | {
        "prompt_tokens_per_second": round(result.prompt_tokens / figures["seconds"]),
        "calls": result.calls,
        "per_second_settled": round(
            (middle[-1][0] - middle[0][0]) / (middle[-1][1] - middle[0][1]) if len(middle) > 1 else 0.0, 1
        ),
        "rss_mb_by_headlines": memory,
    }


def _plan(url: str, folder: Path) -> Plan:
    data = {
        "nims": [{"model_name": "test/1b"}],
        "workload": WORKLOAD,
        "source": {"path": str(folder / "headlines.csv")},
        "teacher": {"model": "load", "base_url": url},
        "store": {"path": str(folder / "records.sqlite")},
        "artifacts": {"root": str(folder / "artifacts")},
    }
    return make_plan(validate_config(data, "benchmark"), run_id="r", cutoff=datetime(2100, 1, 1, tzinfo=UTC))


def _write_headlines(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("headline,date\n")
        file.writelines(
            f"Acme Holdings unit {number} posts third-quarter results above its guidance,2024-03-01\n"
            for number in range(count)
        )


def _requests() -> Requests:
    return Requests(Workload.load(WORKLOAD), model="load", temperature=0.0, max_tokens=32)


async def _drive(count: int, connections: int, make: Callable[[], Call]) -> None:
    """Make calls from as many tasks as there are connections, each with the next headline."""
    requests = _requests()
    numbers = iter(range(count))

    async def work() -> None:
        call = make()
        for number in numbers:
            await call(requests.body(f"Acme Holdings unit {number} posts results"))

    await asyncio.gather(*[work() for _ in range(connections)])


async def _our_client(url: str, count: int, connections: int) -> None:
    from flywheel.teacher import Endpoint, TeacherClient

    async with TeacherClient([Endpoint(url)]) as client:
        await _drive(count, connections, lambda: client.ask)


HEADERS = {"Content-Type": "application/json"}


async def _httpx(url: str, count: int, connections: int) -> None:
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(headers=HEADERS, limits=limits, timeout=60) as client:

        async def call(body: bytes) -> object:
            return (await client.post(url, content=body)).json()["choices"]

        await _drive(count, connections, lambda: call)


async def _httpx_each(url: str, count: int, connections: int) -> None:
    import httpx

    clients = []

    def make() -> Call:
        client = httpx.AsyncClient(headers=HEADERS, timeout=60)
        clients.append(client)

        async def call(body: bytes) -> object:
            return (await client.post(url, content=body)).json()["choices"]

        return call

    await _drive(count, connections, make)
    for client in clients:
        await client.aclose()


async def _aiohttp(url: str, count: int, connections: int) -> None:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(headers=HEADERS, connector=connector) as session:

        async def call(body: bytes) -> object:
            async with session.post(url, data=body) as response:
                return (await response.json())["choices"]

        await _drive(count, connections, lambda: call)


if __name__ == "__main__":
    main()
