"""The local runtime, with real processes: forks of the server, and new ones where it cannot be used."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flywheel.common.errors import JobError
from flywheel.config.schema import RuntimeConfig
from flywheel.runtimes import Job, RefusedJobError
from flywheel.runtimes.environment import needed_environment, without_secrets
from flywheel.runtimes.local import fork_client, processes
from flywheel.runtimes.local.fork_client import stop_servers
from flywheel.runtimes.local.processes import FORK_VARIABLE, Processes, jobs_folder

MODULE = "tests.unit.fake_job"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(fork_client, "PRELOAD", ("json",))
    yield tmp_path
    stop_servers(jobs_folder())


@pytest.fixture(params=["fork", "new process"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(FORK_VARIABLE, "1" if request.param == "fork" else "0")
    return str(request.param)


def runtime(**settings: object) -> Processes:
    return Processes(RuntimeConfig.model_validate({"parallel": 2, **settings}), module=MODULE)


def job(spec: str) -> Job:
    return Job("customize", spec, "customize 1b @ 5000")


def run(spec: str, **settings: object) -> list[str]:
    lines: list[str] = []
    runtime(**settings).run(job(spec), lines.append)
    return lines


def wait_for(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_pids(path: Path) -> list[int]:
    wait_for(lambda: path.exists() and len(path.read_text().split()) == 2)
    return [int(pid) for pid in path.read_text().split()]


def server_pid() -> int:
    (file,) = jobs_folder().glob("fork-*.pid")
    return int(file.read_text())


def in_thread(target: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def body() -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, errors


def test_a_job_prints_into_the_log(either_way: str) -> None:
    assert run("say:hello") == ["hello"]


def test_lines_arrive_while_the_job_runs(either_way: str) -> None:
    seen: dict[str, float] = {}
    runtime().run(job("slow:1.0"), lambda line: seen.setdefault(line, time.monotonic()))
    assert seen["second"] - seen["first"] > 0.7


def test_a_progress_bar_becomes_lines(either_way: str) -> None:
    assert run("bar:") == ["10 %", "20 %", "done"]


def test_a_refused_job_tells_its_own_sentence(either_way: str) -> None:
    with pytest.raises(RefusedJobError, match=r"customize 1b @ 5000: no such dataset$"):
        run("refuse:no such dataset")


def test_a_crashed_job_is_no_refused_one(either_way: str) -> None:
    with pytest.raises(JobError, match="ValueError: the reason") as caught:
        run("crash:the reason")
    assert not isinstance(caught.value, RefusedJobError)


@pytest.mark.parametrize(("number", "words"), [(9, "ran out of memory"), (11, "SIGSEGV")])
def test_a_signal_is_named(either_way: str, number: int, words: str) -> None:
    with pytest.raises(JobError, match=words):
        run(f"signal:{number}")


def test_a_job_that_takes_too_long_is_ended_with_its_children(either_way: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="job_timeout_hours"):
        run(f"sleep:{tmp_path / 'pids'}", job_timeout_hours=3 / 3600)
    pids = read_pids(tmp_path / "pids")
    wait_for(lambda: not any(map(alive, pids)))


def test_kill_ends_the_job_and_its_children(either_way: str, tmp_path: Path) -> None:
    local = runtime()
    thread, errors = in_thread(lambda: local.run(job(f"sleep:{tmp_path / 'pids'}"), lambda line: None))
    pids = read_pids(tmp_path / "pids")
    local.kill()
    thread.join(10)
    assert "ended with its task" in str(errors[0])
    wait_for(lambda: not any(map(alive, pids)))


def test_a_job_that_is_ended_may_save_its_state(either_way: str, tmp_path: Path) -> None:
    local = runtime()
    began = threading.Event()
    thread, _ = in_thread(lambda: local.run(job(f"save:{tmp_path / 'state'}"), lambda line: began.set()))
    assert began.wait(15)
    local.kill()
    thread.join(10)
    wait_for((tmp_path / "state").exists)


def test_a_job_that_does_not_want_to_end_is_ended(either_way: str, tmp_path: Path) -> None:
    local = runtime()
    began = threading.Event()
    thread, _ = in_thread(lambda: local.run(job(f"stubborn:{tmp_path / 'pid'}"), lambda line: began.set()))
    assert began.wait(15)
    pid = int((tmp_path / "pid").read_text())
    local.kill()
    thread.join(15)
    wait_for(lambda: not alive(pid))


def test_a_job_dies_with_a_task_that_is_killed_by_signal_9(either_way: str, tmp_path: Path) -> None:
    code = (
        "from flywheel.runtimes import Job\n"
        "from flywheel.runtimes.local import fork_client\n"
        "from flywheel.runtimes.local.processes import Processes\n"
        "from flywheel.config.schema import RuntimeConfig\n"
        "fork_client.PRELOAD = ('json',)\n"
        f"Processes(RuntimeConfig(parallel=2), module={MODULE!r})"
        f".run(Job('customize', 'sleep:{tmp_path / 'pids'}', 'x'), print)\n"
    )
    task = subprocess.Popen([sys.executable, "-c", code])
    pids = read_pids(tmp_path / "pids")
    task.kill()
    task.wait()
    wait_for(lambda: not any(map(alive, pids)))


def test_jobs_wait_for_their_places(either_way: str, tmp_path: Path) -> None:
    spec = f"together:{tmp_path / 'times'}"
    said: list[str] = []
    threads = [in_thread(lambda: runtime(parallel=1).run(job(spec), said.append)) for _ in range(3)]
    for thread, errors in threads:
        thread.join(60)
        assert not errors
    spans = sorted(tuple(map(float, line.split())) for line in (tmp_path / "times").read_text().splitlines())
    assert len(spans) == 3
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert any("places for jobs are taken" in line for line in said)


def test_who_comes_first_is_served_first(tmp_path: Path) -> None:
    times = tmp_path / "times"
    hold = tmp_path / "hold"
    threads = [in_thread(lambda: runtime(parallel=1).run(job(f"sleep:{hold}"), lambda line: None))]
    read_pids(hold)
    for number in range(5):
        spec = f"together:{times}-{number}"
        threads.append(in_thread(lambda spec=spec: runtime(parallel=1).run(job(spec), lambda line: None)))
        wait_for(lambda number=number: len(list(jobs_folder().glob("ticket-*"))) == number + 1)
    os.kill(read_pids(hold)[0], signal.SIGKILL)
    for thread, _ in threads:
        thread.join(60)
    begins = [float((tmp_path / f"times-{number}").read_text().split()[0]) for number in range(5)]
    assert begins == sorted(begins)
    assert not list(jobs_folder().glob("*ticket-*"))


def test_the_place_in_line_of_one_who_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    jobs_folder().mkdir(parents=True)
    (jobs_folder() / "ticket-00000000000000000001-gone").touch()
    assert run("say:hello", parallel=1) == ["hello"]


def test_a_task_that_is_killed_while_it_waits_gives_up(tmp_path: Path) -> None:
    first, second = runtime(parallel=1), runtime(parallel=1)
    holding, _ = in_thread(lambda: first.run(job(f"sleep:{tmp_path / 'pids'}"), lambda line: None))
    read_pids(tmp_path / "pids")
    said: list[str] = []
    waiting, errors = in_thread(lambda: second.run(job("say:hello"), said.append))
    wait_for(lambda: said)
    second.kill()
    waiting.join(10)
    assert "before it began" in str(errors[0])
    first.kill()
    holding.join(10)


def test_a_job_has_its_own_state(either_way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    first, second = run("state:", threads=3), run("state:", threads=3)
    assert first[0] == "3 None"  # its threads, and no secret of Airflow's
    assert first[1] != second[1]  # random numbers of its own
    assert first[2] == "True"  # a session of its own


# What Airflow's environment may hold that is no business of a job's.
SECRETS = {
    "FLYWHEEL_TEACHER_API_KEY": "teacher-key-1",
    "FLYWHEEL_TEACHER_BASE_URL": "http://t",
    "AIRFLOW_CONN_FLYWHEEL_TEACHER": "http://:key@t",
    "JUDGE_API_KEY": "judge-key-1",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-pw-1",
    "MLFLOW_TRACKING_URI": "http://u:mlflow-pw-1@m",
    "AWS_ACCESS_KEY_ID": "AKIA",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-1",
    "HF_TOKEN": "hub-token-1",
    "HTTPS_PROXY": "http://u:proxy-pw-1@p",
    "SOMETHING_ELSE": "x",
}


def test_a_job_gets_no_secret_that_it_does_not_need(either_way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own, started = (set(line.split()) for line in run("environment:"))
    assert not own & set(SECRETS) and not started & set(SECRETS)
    assert {"PATH", "PYTHONPATH", "HF_HUB_OFFLINE", "FLYWHEEL_THREADS"} <= own


@pytest.mark.parametrize(
    ("root", "from_hub", "given"),
    [
        ("/data/artifacts", False, set()),
        ("/data/artifacts", True, {"HF_TOKEN", "HTTPS_PROXY"}),
        ("s3://bucket/x.spec.json", False, {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"}),
        ("gs://bucket/x.spec.json", False, {"HTTPS_PROXY"}),
    ],
)
def test_what_a_job_needs_of_them_is_told_by_its_artifact_root_and_its_weights(
    monkeypatch: pytest.MonkeyPatch, root: str, from_hub: bool, given: set[str]
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    found = needed_environment(root, from_hub=from_hub)
    assert set(found) & set(SECRETS) == given
    named = needed_environment(root, from_hub=from_hub, also=("SOMETHING_ELSE", "NOT_THERE"))
    assert set(named) - set(found) == {"SOMETHING_ELSE"}
    assert not set(without_secrets(found)) & (given - {"AWS_ACCESS_KEY_ID"})


def test_jobs_share_one_server() -> None:
    run("say:a")
    pid = server_pid()
    run("say:b")
    assert server_pid() == pid


def test_what_the_server_did_ahead_is_done_for_its_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("ready:") == ["False"]
    stop_servers(jobs_folder())
    monkeypatch.setattr(fork_client, "PRELOAD", (f"{MODULE}:make_ready",))
    assert run("ready:") == ["True"]


def test_another_environment_has_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    run("say:a")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run("say:b")
    files = list(jobs_folder().glob("fork-*.pid"))
    assert len(files) == 2
    wait_for(lambda: sum(alive(int(file.read_text())) for file in files) == 1)


def test_the_server_that_is_killed_takes_its_job_along_and_is_replaced(tmp_path: Path) -> None:
    thread, errors = in_thread(lambda: runtime().run(job(f"sleep:{tmp_path / 'pids'}"), lambda line: None))
    job_pid, _ = read_pids(tmp_path / "pids")
    first = server_pid()
    os.kill(first, signal.SIGKILL)
    thread.join(15)
    assert "fork server ended" in str(errors[0])
    wait_for(lambda: not alive(job_pid))
    assert run("say:again") == ["again"]
    assert server_pid() != first


def test_a_server_without_jobs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_FORK_SERVER_IDLE_SECONDS", "0.2")
    run("say:a")
    pid = server_pid()
    wait_for(lambda: not alive(pid))
    assert run("say:b") == ["b"]


def test_a_deep_state_folder_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    deep.mkdir(parents=True)
    monkeypatch.setenv("FLYWHEEL_HOME", str(deep))
    assert run("say:hello") == ["hello"]
    stop_servers(jobs_folder())


def test_a_server_that_cannot_start_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork_client, "START_SECONDS", 0.0)
    assert run("say:hello") == ["hello"]
    assert not list(jobs_folder().glob("*.sock"))


def test_places_are_one_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    local = runtime(parallel=0)
    assert local.places == 3
    assert local._environment(1)["CUDA_VISIBLE_DEVICES"] == "5"


def test_a_server_that_must_not_fork_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module named torch that has initialised CUDA while it was imported.
    (tmp_path / "torch.py").write_text("class cuda:\n    is_initialized = staticmethod(lambda: True)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setattr(fork_client, "PRELOAD", ("torch",))
    assert run("say:hello") == ["hello"]
    (said,) = jobs_folder().glob("fork-*.log")
    assert "initialised CUDA" in said.read_text()


def test_jobs_on_a_gpu_go_on_in_one_process_until_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: ("0",))
    first = run("process:", threads=3)
    again = run("process:", threads=5)
    assert again[0].split()[0] == first[0].split()[0]
    assert [lines[0].split()[1] for lines in (first, again)] == [
        "3",
        "5",
    ]  # the environment is each job's own
    with pytest.raises(RefusedJobError, match="no such thing"):
        run("refuse:no such thing")
    after = run("process:")
    assert after[0].split()[0] != first[0].split()[0]
    assert not alive(int(first[0].split()[0]))
    assert run("process:")[0].split()[0] == after[0].split()[0]


def test_a_job_on_a_gpu_that_dies_or_is_ended_leaves_the_next_one_a_new_process(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setattr(processes, "gpus", lambda: ("0",))
    first = run("process:")[0].split()[0]
    with pytest.raises(JobError, match=r"SIGKILL|signal 9|killed"):
        run(f"signal:{signal.SIGKILL.value}")
    second = run("process:")[0].split()[0]
    assert second != first
    ending = runtime()
    thread, errors = in_thread(lambda: ending.run(job(f"save:{home / 'state'}"), lambda _: ending.kill()))
    thread.join(30)
    assert isinstance(errors[0], JobError)
    wait_for(lambda: (home / "state").exists())  # it could save its state
    assert run("process:")[0].split()[0] not in (first, second)


def test_jobs_without_a_gpu_have_a_process_each() -> None:
    assert run("process:")[0] != run("process:")[0]
