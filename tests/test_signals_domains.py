import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from curation.signals import domains
from curation.signals.batch import PairBatch
from curation.signals.domains import DOMAIN, _contains, _hash, bundled_hashes, domain, host_of
from curation.signals.settings import SignalSettings


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://www.Example.com/a?b=c", "example.com"),
        ("http://a.b.example.com:8080/", "a.b.example.com"),
        ("example.com/path", "example.com"),
        ("//example.com", "example.com"),
        ("http://user@example.com./", "example.com"),
        ("http://[::1]/", "::1"),
        ("http://[::1", None),
        ("", None),
        ("n/a", None),
        ("see below", None),
    ],
)
def test_the_host_of_a_url(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_a_listed_domain_blocks_its_subdomains_only(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("# mine\nbad.example\nwww.worse.example # why\n\n", encoding="utf-8")
    urls = [
        "http://bad.example/x",
        "http://shop.bad.example",
        "http://notbad.example",
        "http://example/",
        None,
        "http://worse.example",
        "http://any.xxx",  # datatrove's list names it
    ]
    batch = PairBatch(pa.table({"pair_id": range(7), "url": pa.array(urls, pa.string())}))
    found = domain(batch, "passage", SignalSettings(domain_lists=(listed,)))
    assert found["blocked"].to_pylist() == [True, True, False, None, None, True, True]
    assert found["domain"].to_pylist()[:3] == ["bad.example", "shop.bad.example", "notbad.example"]


def test_the_bundled_list_is_sorted_large_and_opened_from_the_cache() -> None:
    hashes = bundled_hashes()
    assert isinstance(hashes, np.memmap)
    assert len(hashes) > 4_000_000
    assert (hashes[1:] > hashes[:-1]).all()
    assert not _contains(hashes, _hash("baidu.com"))


def small_archive(folder: Path) -> Path:
    listed, archive = folder / "domains", folder / "lists.tar.gz"
    listed.write_text("bad.example\nworse.example\n", encoding="utf-8")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(listed, "domains")
    return archive


def test_a_cache_is_made_once_mended_when_cut_and_not_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive = small_archive(tmp_path)
    monkeypatch.setattr(domains, "_archive", lambda: archive)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fresh = bundled_hashes.__wrapped__
    expected = sorted(map(_hash, ("bad.example", "worse.example")))
    assert fresh().tolist() == expected
    (made,) = (tmp_path / "cache" / "lode").iterdir()
    before = made.stat().st_mtime_ns
    assert isinstance(fresh(), np.memmap)
    assert made.stat().st_mtime_ns == before
    made.write_bytes(made.read_bytes()[:-1])
    assert fresh().tolist() == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(archive))  # a file: no folder can be made in it
    assert fresh().tolist() == expected
    assert "each process makes it anew" in caplog.text


def test_another_list_is_another_version(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("bad.example\n")
    before = DOMAIN.depends(SignalSettings(domain_lists=(listed,)))
    listed.write_text("worse.example\n")
    assert DOMAIN.depends(SignalSettings(domain_lists=(listed,))) != before
