"""Training events: on the disk when they happen, in the lake once."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog.lake import Catalog
from trainer.run_log import RunLog
from trainer.train_events import Decided, make_events, read_events

KILLED = """
import os, signal, sys
from pathlib import Path
from catalog.lake import Catalog
from tests.test_train_events import at
from trainer.run_log import RunLog

log = RunLog(Path(sys.argv[2]), "a", Catalog.open(sys.argv[1]), "train_events")
log.begin(0)
for step in (10, 20, 30):
    log.append(at(step))
os.kill(os.getpid(), signal.SIGKILL)
"""


def at(step: int, reason: str = "replaced", run: str = "a") -> pa.RecordBatch:
    """Make two events of a step."""
    ids = np.array([7, 9])
    scores = np.array([0.75, np.nan], np.float32)
    decided = Decided(reason, ids, ids - 5, np.array([2, 3]), np.array([17, -1]), scores, scores)
    return make_events(run, step, decided)


def steps_of(catalog: Catalog, run: str = "a") -> list[int]:
    return list(read_events(catalog, run)["step"].to_pylist()[::2])


def test_an_event_says_what_was_decided_and_null_where_nothing_was_seen(catalog: Catalog) -> None:
    log = RunLog(catalog.location.work / "run", "a", catalog, "train_events")
    log.begin(0)
    log.append(at(100))
    assert log.commit(100) == 2
    assert read_events(catalog, "a").to_pylist() == [
        {
            "run": "a", "step": 100, "pair_id": 7, "query_id": 2, "window": 2, "rank": 17,
            "s0": 0.75, "s": 0.75, "reason": "replaced",
        },
        {
            "run": "a", "step": 100, "pair_id": 9, "query_id": 4, "window": 3, "rank": None,
            "s0": None, "s": None, "reason": "replaced",
        },
    ]  # fmt: skip


def test_each_commit_adds_what_came_since_the_last(catalog: Catalog, tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", "a", catalog, "train_events")
    log.begin(0)
    for step in (10, 20, 30):
        log.append(at(step))
        assert log.commit(step) == 2
        assert log.commit(step) == 0
    assert steps_of(catalog) == [10, 20, 30]


def test_events_after_the_checkpoint_wait_for_the_next(catalog: Catalog, tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", "a", catalog, "train_events")
    log.begin(0)
    for step in (10, 20, 30):
        log.append(at(step))
    log.commit(20)
    assert steps_of(catalog) == [10, 20]
    log.append(at(40))
    log.commit(40)
    assert steps_of(catalog) == [10, 20, 30, 40]


def test_a_killed_run_loses_no_event_and_adds_none_twice(catalog: Catalog, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, catalog.location.url, str(folder)]
    done = subprocess.run(command, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -9
    log = RunLog(folder, "a", catalog, "train_events")
    log.begin(20)  # the checkpoint was of step 20: step 30 is lived again
    log.append(at(30, "exhausted"))
    log.commit(30)
    assert steps_of(catalog) == [10, 20, 30]
    assert read_events(catalog, "a")["reason"].to_pylist()[4:] == ["exhausted"] * 2


def test_a_kill_between_commit_and_clean_up_adds_nothing_twice(
    catalog: Catalog, tmp_path: Path
) -> None:
    log = RunLog(tmp_path / "run", "a", catalog, "train_events")
    log.begin(0)
    log.append(at(10))
    log.commit(10)
    log.append(at(20))
    log.sync()
    left = log.path.read_bytes()
    log.commit(20)
    log.path.write_bytes(left)  # as if the process had died before it removed the file
    again = RunLog(tmp_path / "run", "a", catalog, "train_events")
    again.begin(20)
    again.append(at(30))
    again.commit(30)
    assert steps_of(catalog) == [10, 20, 30]


def test_going_on_from_an_earlier_checkpoint_clears_what_came_after_it(
    catalog: Catalog, tmp_path: Path
) -> None:
    for run in ("a", "b"):
        log = RunLog(tmp_path / run, run, catalog, "train_events")
        log.begin(0)
        for step in (10, 20, 30):
            log.append(at(step, run=run))
            log.commit(step)
    again = RunLog(tmp_path / "a", "a", catalog, "train_events")
    again.begin(10)
    again.append(at(15))
    again.commit(20)
    assert steps_of(catalog) == [10, 15]
    assert steps_of(catalog, "b") == [10, 20, 30]
    again.begin(10)
    again.commit(20)  # now without an event
    assert steps_of(catalog) == [10]


def test_half_a_batch_at_the_end_of_the_file_is_no_event(catalog: Catalog, tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run", "a", catalog, "train_events")
    log.begin(0)
    log.append(at(10))
    whole = log.path.stat().st_size
    log.append(at(20))
    size = log.path.stat().st_size
    log.close()
    content = log.path.read_bytes()
    for cut in (whole, whole + 5, (whole + size) // 2, size - 1):
        log.path.write_bytes(content[:cut])
        log.begin(20)
        assert set(log._read()["step"].to_pylist()) == {10}
    log.path.write_bytes(b"")
    log.begin(20)
    assert log.commit(20) == 0
