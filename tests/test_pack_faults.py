"""A pack is there whole or not at all: kills, rivals, damage, and packs of something else."""

import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import CatalogError
from catalog.lake import Catalog
from catalog.pack import (
    Pack,
    PackDamagedError,
    PackError,
    PackMissingError,
    build_pack,
    verification,
)
from catalog.policies import Condition, Policy
from catalog.policy_commit import commit_policy
from catalog.records import checksum
from catalog.snapshots import Snapshot, create_snapshot
from tests.pack_builder import SETTINGS
from tests.pack_catalog import KEEP, candidates, make_catalog, pair

FILE = 1 << 32


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    rows = [
        pair(1, n, f"q{n}", f"passage {n}", negatives=[f"negative {n}"] if n % 4 == 0 else None)
        for n in range(50)
    ]
    lists = {
        FILE + n: [(FILE + (n + k) % 50, 0.5, 0) for k in range(1, 30)] for n in range(0, 50, 2)
    }
    more = {"candidates": candidates("run", lists)}
    return make_catalog(tmp_path_factory.mktemp("lake") / "corpus", rows, more)


@pytest.fixture(scope="module")
def snapshot(catalog: Catalog) -> Snapshot:
    return create_snapshot(catalog, "v1")


@pytest.fixture(scope="module")
def clean(catalog: Catalog, snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return build(catalog, snapshot, tmp_path_factory.mktemp("packs") / "clean")


@pytest.fixture
def copy(clean: Pack, tmp_path: Path) -> Path:
    """Copy the pack as to another machine: it has not been verified there."""
    folder = tmp_path / "v1"
    shutil.copytree(clean.folder, folder)
    (folder / verification.VERIFIED).unlink()
    return folder


def build(catalog: Catalog, snapshot: Snapshot, folder: Path, **more: object) -> Pack:
    settings = replace(SETTINGS, **more)  # type: ignore[arg-type]
    return build_pack(catalog, snapshot, folder, settings)


def start(catalog: Catalog, folder: Path, stage: str = "", limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pack_builder", catalog.location.url, str(folder)]
    process = subprocess.Popen(
        [*command, stage, str(limit)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def flip(path: Path, at: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def signatures(folder: Path) -> dict[str, tuple[int, int]]:
    found = ((path.name, path.stat()) for path in folder.iterdir() if path.is_file())
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_ends_with_the_same_pack(
    catalog: Catalog, snapshot: Snapshot, clean: Pack, tmp_path: Path
) -> None:
    folder = tmp_path / "v1"
    kills = [("passage texts", 40), ("candidate lists", 21), ("trust_as_written", 0)]
    for stage, limit in kills:
        process = start(catalog, folder, stage, limit)
        process.communicate("go\n")
        assert process.returncode == -signal.SIGKILL, stage
        with pytest.raises(PackMissingError, match="there is no pack in"):
            Pack.open(folder)
    (aside,) = tmp_path.glob(".v1.*.building")
    before = signatures(aside)
    assert build(catalog, snapshot, folder).manifest == clean.manifest
    Pack.open(folder, verify=True)
    # What was finished before a kill is not written again.
    after = signatures(folder)
    assert {name: after[name] for name in clean.manifest.files} == {
        name: before[name] for name in clean.manifest.files
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [".v1.lock", "v1"]
    assert set(after) == {*clean.manifest.files, "pack.json", "verified.json"}


def test_a_build_that_is_killed_after_the_rename_has_left_a_whole_pack(
    catalog: Catalog, snapshot: Snapshot, clean: Pack, tmp_path: Path
) -> None:
    process = start(catalog, tmp_path / "v1", "sync_folder")
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    assert Pack.open(tmp_path / "v1", verify=True).manifest == clean.manifest
    assert build(catalog, snapshot, tmp_path / "v1").manifest == clean.manifest


def test_two_processes_at_once_build_once_and_share(
    catalog: Catalog, clean: Pack, tmp_path: Path
) -> None:
    rivals = [start(catalog, tmp_path / "v1") for _ in range(2)]
    for process in rivals:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0] for process in rivals)
    key = clean.manifest.key
    assert answers == [f"built {key}\n", f"shared {key}\n"]
    assert Pack.open(tmp_path / "v1", verify=True).manifest == clean.manifest


def test_a_build_that_fails_leaves_no_pack_and_is_taken_up_again(
    catalog: Catalog, snapshot: Snapshot, clean: Pack, tmp_path: Path
) -> None:
    def fail(stage: str, rows: int) -> None:
        if stage == "pairs":
            raise OSError(28, "No space left on device")

    with pytest.raises(CatalogError, match="No space left on device; free some space and run"):
        build_pack(catalog, snapshot, tmp_path / "v1", SETTINGS, fail)
    (aside,) = tmp_path.glob(".v1.*.building")
    assert not list(aside.glob("pairs.*"))
    assert not list(aside.glob("*.tmp"))
    with pytest.raises(PackMissingError, match="there is no pack in"):
        Pack.open(aside)
    assert build(catalog, snapshot, tmp_path / "v1").manifest == clean.manifest


@pytest.mark.parametrize("name", ["passage-00001.blob", "pairs.pair_id", "lists.index"])
def test_a_flipped_byte_is_found_and_only_its_part_is_written_again(
    catalog: Catalog,
    snapshot: Snapshot,
    clean: Pack,
    copy: Path,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Pack.open(copy)
    flip(copy / name, 3)
    with pytest.raises(PackDamagedError, match=f"is damaged: {name} has changed since it was"):
        Pack.open(copy)
    before = signatures(copy)
    with caplog.at_level(logging.WARNING):
        pack = build(catalog, snapshot, copy)
    assert f"rebuilding {name} of the pack" in caplog.text
    assert pack.manifest == clean.manifest
    Pack.open(copy, verify=True)
    after = signatures(copy)
    part = name.rsplit(".", 1)[0]
    rewritten = {file for file in clean.manifest.files if before[file] != after[file]}
    assert rewritten == {file for file in clean.manifest.files if file.startswith(f"{part}.")}


def test_a_byte_that_a_disk_flipped_is_found_on_request(
    catalog: Catalog, snapshot: Snapshot, copy: Path
) -> None:
    Pack.open(copy)
    path = copy / "passage-00000.blob"
    status = path.stat()
    flip(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Pack.open(copy).texts("passage", np.array([0])) != ["passage 0"]
    with pytest.raises(PackDamagedError, match=r"passage-00000\.blob has changed"):
        Pack.open(copy, verify=True)
    # From then on nobody trusts the pack until it is built again.
    assert build(catalog, snapshot, copy).texts("passage", np.array([0])) == ["passage 0"]


def test_a_copy_is_verified_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def note(path: Path) -> str:
        read.append(path)
        return checksum(path)

    monkeypatch.setattr(verification, "checksum", note)
    files = set(Pack.open(copy).manifest.files)
    assert {path.name for path in read} == files
    assert len(read) == len(files)
    Pack.open(copy)
    assert len(read) == len(files)
    (copy / verification.VERIFIED).write_text("not json")
    Pack.open(copy)
    assert len(read) == 2 * len(files)


def test_a_builder_need_not_verify_what_it_wrote(
    clean: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "checksum", lambda path: pytest.fail(str(path)))
    Pack.open(clean.folder)


def test_a_pack_in_a_read_only_folder_opens_with_a_warning(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, content: object) -> None:
        raise CatalogError("cannot write to the pack: Read-only file system")

    monkeypatch.setattr(verification, "write_json", refuse)
    assert len(Pack.open(copy)) == 50
    assert "will be verified at every opening: cannot write to the pack" in caplog.text


def test_lost_cut_and_unreadable_files_are_found_and_made_again(
    catalog: Catalog, snapshot: Snapshot, clean: Pack, copy: Path
) -> None:
    (copy / "clusters.first").unlink()
    with pytest.raises(PackDamagedError, match=r"clusters.first is missing; build it again"):
        Pack.open(copy)
    os.truncate(copy / "pairs.label", 8)
    with pytest.raises(PackDamagedError, match=r"clusters\.first is missing and 1 more") as caught:
        Pack.open(copy)
    assert caught.value.damaged["pairs.label"] == "has 8 bytes, 200 were written"
    assert build(catalog, snapshot, copy).manifest == clean.manifest
    assert Pack.open(copy, verify=True).manifest == clean.manifest


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", None])
def test_a_damaged_manifest_is_found_and_the_pack_made_again(
    catalog: Catalog, snapshot: Snapshot, clean: Pack, copy: Path, content: bytes | None
) -> None:
    manifest = copy / "pack.json"
    if content is None:
        manifest.write_text(manifest.read_text().replace('"pairs": 50', '"pairs": 51'))
    else:
        manifest.write_bytes(content)
    with pytest.raises(PackDamagedError, match=r"is damaged: pack.json (cannot|has changed)"):
        Pack.open(copy)
    if content is None:
        assert build(catalog, snapshot, copy).manifest == clean.manifest


def test_a_pack_of_another_snapshot_is_refused(
    catalog: Catalog, snapshot: Snapshot, copy: Path
) -> None:
    commit_policy(catalog, Policy("few", (Condition("few", "rules", require="pair_id % 2 = 0"),)))
    other = create_snapshot(catalog, "v2", "few")
    commit_policy(catalog, KEEP)
    before = signatures(copy)
    with pytest.raises(PackError, match=f"snapshot 'v1' with digest {snapshot.digest}, asked for"):
        build(catalog, other, copy)
    with pytest.raises(PackError, match=f"wanted is digest {other.digest}; build a pack of that"):
        Pack.open(copy, digest=other.digest)
    assert signatures(copy) == before
    assert len(Pack.open(copy, digest=snapshot.digest)) == 50


def test_the_same_rows_of_a_later_lake_are_another_pack(
    catalog: Catalog, snapshot: Snapshot, copy: Path
) -> None:
    commit_policy(catalog, KEEP)
    later = create_snapshot(catalog, "later")
    if later.lake_version == snapshot.lake_version:
        pytest.fail("the lake has no later version")
    assert later.digest == snapshot.digest
    with pytest.raises(PackError, match=f"version {snapshot.lake_version} of the lake, asked for"):
        build(catalog, later, copy)


def test_a_pack_with_other_settings_is_refused_and_says_which(
    catalog: Catalog, snapshot: Snapshot, copy: Path
) -> None:
    with pytest.raises(PackError, match=r"another pack: compression is None, asked for 'zstd'\."):
        build(catalog, snapshot, copy, compression="zstd")
    assert len(build(catalog, snapshot, copy, memory_mb=300)) == 50  # decides nothing of the pack


def test_a_folder_with_something_else_is_left_alone(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("years of work")
    with pytest.raises(PackError, match="holds something that is not a pack; choose another"):
        build(catalog, snapshot, folder)
    assert (folder / "chapter.tex").read_text() == "years of work"
    (folder / "chapter.tex").unlink()
    assert len(build(catalog, snapshot, folder)) == 50  # an empty folder may be used


def test_what_a_killed_build_of_other_settings_left_is_removed(
    catalog: Catalog, snapshot: Snapshot, tmp_path: Path
) -> None:
    left = tmp_path / ".v1.0123456789abcdef.building"
    left.mkdir()
    neighbors = [
        tmp_path / ".v10.0123456789abcdef.building",
        tmp_path / ".v1.zstd.0123456789abcdef.building",
    ]
    for neighbor in neighbors:
        neighbor.mkdir()
    build(catalog, snapshot, tmp_path / "v1")
    assert not left.exists()
    assert all(neighbor.exists() for neighbor in neighbors)


def test_a_pack_of_another_format_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.pack.layout.FORMAT", 2)
    with pytest.raises(PackError, match=r"another format than this Lode reads \(2\); delete"):
        Pack.open(copy)
