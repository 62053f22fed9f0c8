"""A PostgreSQL of the tests' own, on a free port of this machine."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).parent / "services" / "postgres.sh"
MakeUrl = Callable[..., str]


def has_postgres() -> bool:
    return shutil.which("initdb") is not None or any(
        Path("/usr/lib/postgresql").glob("*/bin/initdb")
    )


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


class PostgresServer:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.environment = {
            **os.environ, "PGBASE": str(folder), "PGPORT_PRIV": str(self.port),
        }  # fmt: skip

    def run(self, verb: str) -> None:
        subprocess.run(["bash", str(SCRIPT), verb], check=True, env=self.environment)

    def kill(self) -> None:
        """Stop it as a crash would: no connection is ended in order."""
        lock = self.folder / "data" / "postmaster.pid"
        first = int(lock.read_text().split()[0])
        found = subprocess.run(["pgrep", "-P", str(first)], capture_output=True, text=True)
        everyone = [first, *map(int, found.stdout.split())]
        for pid in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(is_running(pid) for pid in everyone):  # or the next one would not start
            time.sleep(0.05)
        # Where nobody waits for orphans its number stays taken, and the server would not start.
        for left in (lock, *self.folder.glob("sock/.s.PGSQL.*")):
            left.unlink(missing_ok=True)

    def create_database(self, name: str) -> None:
        address = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "lode"]
        subprocess.run(
            ["psql", "-q", *address, "postgres", "-c", f"create database {name}"], check=True
        )
