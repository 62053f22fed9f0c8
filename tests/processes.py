"""Processes of tests: started in milliseconds from a server that has imported the catalog."""

import multiprocessing
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from catalog import duck

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.processes", "catalog.snapshots", "catalog.jobs", "boto3"])
# What the server has done its processes need not: extensions checked, pandas imported by DuckDB.
with duck.connect(extensions=["ducklake", "sqlite_scanner"]) as _connection:
    _connection.execute("select ?", [1])


def start_process(function: Callable[..., None], arguments: Sequence[Any]) -> BaseProcess:
    """Start a function in a process of its own."""
    process = CONTEXT.Process(target=function, args=tuple(arguments), daemon=True)
    process.start()
    return process


def run_in_processes(function: Callable[..., None], arguments: Sequence[Sequence[Any]]) -> None:
    """Run a function in one process for each set of arguments, all at once; all must end well."""
    processes = [start_process(function, each) for each in arguments]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
