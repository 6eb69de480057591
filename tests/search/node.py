"""One Elasticsearch node on 127.0.0.1, with users and TLS, that can be killed and started again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.certificates import make_authority
from tests.search.distribution import UnavailableError, distribution, java_home

# Elasticsearch refuses to run as root.
_OWNER = 65534
# Not "elastic", which the node has a realm of its own for.
ADMIN = "admin"
START_SECONDS = 240

# The privileges of docs/elasticsearch.md, and less than those.
ROLES = """
flywheel:
  cluster: [monitor, manage_index_templates]
  indices:
    - names: ["flywheel-*"]
      privileges: [read, write, create_index, view_index_metadata, maintenance, manage]
bystander:
  cluster: [monitor]
logs:
  indices:
    - names: ["airflow-logs*"]
      privileges: [read, write, create_index]
"""


class SearchNode:
    """A node with its own data; a context that deletes it all at the end.

    Args:
        tls: whether it speaks https; its CA is the file `ca`.
        valid_days: of its certificate; negative: expired.

    Raises:
        UnavailableError: it cannot run on this machine.
    """

    users: Mapping[str, str] = {
        ADMIN: "superuser",
        "flywheel": "flywheel",
        "bystander": "bystander",
        "logs": "logs",
    }

    def __init__(self, *, tls: bool = True, valid_days: int = 365, heap_mb: int = 512) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="flywheel-search-"))
        self._distribution, self._java = distribution(), java_home()
        self.port = _free_port()
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}"
        self.tls = tls
        self._authority = make_authority(self._home)
        self.ca = self._authority.certificate
        self._configure(heap_mb)
        if tls:
            self.certify(valid_days)

    def password(self, user: str) -> str:
        """Return the password of one of `users`."""
        return f"{user}-p@ss/word"

    def connection(self, user: str | None = "flywheel", password: str | None = None, **extra: object) -> str:
        """Return an Airflow connection to the node, as JSON."""
        fields: dict[str, object] = {
            "conn_type": "elasticsearch",
            "host": "localhost",
            "port": self.port,
            "schema": "https" if self.tls else "http",
            "extra": {**({"ca_certs": str(self.ca)} if self.tls else {}), **extra},
        }
        if user is not None:
            fields |= {"login": user, "password": password or self.password(user)}
        return json.dumps(fields)

    # -- life ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start it and wait until it answers."""
        log = self._home / "start.log"
        environment = {
            **{name: value for name, value in os.environ.items() if name != "JAVA_HOME"},
            "HOME": str(self._home / "tmp"),
            "ES_TMPDIR": str(self._home / "tmp"),
            "ES_JAVA_HOME": str(self._java),
            "ES_PATH_CONF": str(self._home / "config"),
        }
        command = [str(self._distribution / "bin" / "elasticsearch"), "-d", "-p", str(self._home / "pid")]
        if os.geteuid() == 0:
            command = ["setpriv", f"--reuid={_OWNER}", f"--regid={_OWNER}", "--clear-groups", *command]
        with log.open("wb") as output:
            done = subprocess.run(
                command, stdout=output, stderr=output, env=environment, cwd=self._home / "tmp", check=False
            )
        if done.returncode:
            raise RuntimeError(f"Elasticsearch does not start: {log.read_text()[-3000:]}")
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise RuntimeError(f"Elasticsearch does not answer; see {self._home}/logs")
            time.sleep(0.3)
        return self

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """End it, SIGTERM by default, and wait until it is gone."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal_number)
        while _is_alive(pid):
            time.sleep(0.05)
        (self._home / "pid").unlink(missing_ok=True)
        # What a killed node leaves behind; nothing else holds these.
        for lock in (self._home / "data").rglob("*.lock"):
            lock.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.stop(signal.SIGKILL)

    @property
    def pid(self) -> int | None:
        """The process's id; None when it does not run."""
        try:
            pid = int((self._home / "pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if _is_alive(pid) else None

    def certify(self, valid_days: int) -> None:
        """Give it a new certificate, from its next start on."""
        certificate, key = self._authority.issue("localhost", "127.0.0.1", valid_days=valid_days)
        for source, name in ((certificate, "node.crt"), (key, "node.key")):
            target = self._home / "config" / name
            shutil.copy(source, target)
            target.chmod(0o644)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.delete()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.delete()

    def delete(self) -> None:
        """End it and delete its data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    # -- set-up --------------------------------------------------------------------------------------------

    def _configure(self, heap_mb: int) -> None:
        config = self._home / "config"
        shutil.copytree(self._distribution / "config", config)
        settings = {
            "cluster.name": "flywheel-tests",
            "node.name": "one",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": 0,
            "discovery.type": "single-node",
            "path.data": str(self._home / "data"),
            "path.logs": str(self._home / "logs"),
            "xpack.security.enabled": True,
            "xpack.security.autoconfiguration.enabled": False,
            "xpack.security.enrollment.enabled": False,
            "xpack.security.transport.ssl.enabled": False,
            "xpack.security.http.ssl.enabled": self.tls,
            **(
                {"xpack.security.http.ssl.key": "node.key", "xpack.security.http.ssl.certificate": "node.crt"}
                if self.tls
                else {}
            ),
            "cluster.routing.allocation.disk.threshold_enabled": False,
        }
        (config / "elasticsearch.yml").write_text(
            "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        )
        options = config / "jvm.options.d" / "tests.options"
        options.parent.mkdir(exist_ok=True)
        options.write_text(f"-Xms{heap_mb}m\n-Xmx{heap_mb}m\n-XX:-AlwaysPreTouch\n")
        (config / "roles.yml").write_text(ROLES)
        (config / "users").write_text("".join(f"{u}:{_hash(self.password(u))}\n" for u in self.users))
        (config / "users_roles").write_text("".join(f"{role}:{u}\n" for u, role in self.users.items()))
        for name in ("tmp", "data", "logs"):
            (self._home / name).mkdir()
        if os.geteuid() == 0:
            for path in (self._home, *self._home.rglob("*")):
                os.chown(path, _OWNER, _OWNER)
            self._home.chmod(0o755)

    def _answers(self) -> bool:
        token = base64.b64encode(f"{ADMIN}:{self.password(ADMIN)}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url}/_cluster/health?wait_for_status=yellow&timeout=1s",
            headers={"Authorization": f"Basic {token}"},
        )
        context = ssl.create_default_context(cafile=str(self.ca))
        # That it answers is all that is asked here; its certificate is what some tests are about.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            if error.code == 401:
                raise RuntimeError(f"Elasticsearch does not know its user {ADMIN!r}") from None
            return False
        except OSError:
            return False


def _hash(password: str) -> str:
    """Return a password as the node's file of users keeps it."""
    salt = os.urandom(32)
    hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 1000, 32)
    return f"{{PBKDF2}}1000${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}"


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


__all__ = ["SearchNode", "UnavailableError"]
