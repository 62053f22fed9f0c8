from pathlib import Path

import pyarrow as pa
import pytest

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
    ]
    batch = PairBatch(pa.table({"pair_id": range(6), "url": pa.array(urls, pa.string())}))
    found = domain(batch, "passage", SignalSettings(domain_lists=(listed,)))
    assert found["blocked"].to_pylist() == [True, True, False, None, None, True]
    assert found["domain"].to_pylist()[:3] == ["bad.example", "shop.bad.example", "notbad.example"]


def test_the_bundled_list_is_sorted_large_and_opened_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = bundled_hashes()
    assert len(hashes) > 4_000_000
    assert (hashes[1:] > hashes[:-1]).all()
    assert not _contains(hashes, _hash("baidu.com"))


def test_another_list_is_another_version(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("bad.example\n")
    before = DOMAIN.depends(SignalSettings(domain_lists=(listed,)))
    listed.write_text("worse.example\n")
    assert DOMAIN.depends(SignalSettings(domain_lists=(listed,))) != before
