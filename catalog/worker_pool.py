"""Tasks in processes of this machine: one task at a time each, and no process outlives the pool.

Not ``multiprocessing.Pool``: it starts a process that died again for ever and waits for the task
that died with it. Not ``ProcessPoolExecutor``: its processes hold both ends of the queue that they
read, so they would wait for ever where the parent was killed.
"""

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from catalog.stage import load_stage


def run_in_processes(path: Path, tasks: Sequence[int], workers: int, start_method: str) -> None:
    """Run tasks of a stage; the first that fails ends all of them, with its own exception."""
    context = multiprocessing.get_context(start_method)
    left = deque(tasks)
    pool = [_Worker(context, path) for _ in range(min(workers, len(left)))]
    try:
        busy: dict[Any, _Worker] = {worker.connection: worker for worker in pool}
        for worker in pool:
            worker.give(left.popleft())
        while busy:
            for connection in wait(list(busy)):
                busy[connection].take_answer()
                if left:
                    busy[connection].give(left.popleft())
                else:
                    del busy[connection]
    finally:
        for worker in pool:
            worker.stop()


class _Worker:
    """A process and the pipe to it. Only the parent holds its own end: a killed parent is EOF."""

    def __init__(self, context: Any, path: Path) -> None:
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(path, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task = 0

    def give(self, task: int) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            self._report_death()

    def take_answer(self) -> None:
        """Return if the task is done; raise what it raised, or how its process ended."""
        try:
            error = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._report_death()
        if error is not None:
            raise error

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def _report_death(self) -> NoReturn:
        self.process.join()
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        hint = "; the kernel does that where memory runs out: try fewer --workers" * (code == -9)
        raise RuntimeError(f"the process of task {self.task} {how}{hint}")


def _work(path: Path, connection: Connection) -> None:
    """Run the tasks that come until nobody is left who could send one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent takes it and stops us
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            load_stage(path).run(task)
            answer = None
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = _portable(error)
        try:
            connection.send(answer)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    """Return the exception, or its words where it cannot be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception's own pickling can raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
