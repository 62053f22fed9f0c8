"""Reading: the memory that is needed does not grow with the file, its row groups or its lines."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LIMIT_MB = 1500
SCRIPT = """
import re, sys
from pathlib import Path
from curation.reading import SourceSettings, read_pairs
pairs = quarantined = 0
for batch in read_pairs(sys.argv[1], SourceSettings(), 1):
    pairs += batch.pairs.num_rows
    quarantined += batch.quarantine.num_rows
# Not getrusage: its peak begins with that of the process that started this one.
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(pairs, quarantined, int(peak_kb) // 1000)
"""


def peak_mb(path):
    """Return pairs, quarantined rows and peak resident memory in MB of reading a file."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, check=False, text=True,
        cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return tuple(map(int, run.stdout.split()))


def one_huge_line(path):
    good = b'{"query": "q", "positive": "p"}\n'
    with path.open("wb") as stream:
        stream.write(good + b'{"query": "')
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
        stream.write(b'", "positive": "p"}\n' + good)
    return 2, 1


def huge_texts(path):
    """Write one row group of 1.6 GB: 1,600 texts of 1 MB."""
    text = "x" * 1_000_000
    texts = pa.array([f"{row} {text}" for row in range(100)])
    table = pa.table({"text": pa.chunked_array([texts] * 16)})
    pq.write_table(table, path, row_group_size=1600, compression="zstd", use_dictionary=False)
    return 1600, 0


def huge_batch(path):
    """Write one Arrow batch of 1.6 GB."""
    texts = pa.array([f"{row} {'长' * 3_300}" for row in range(10_000)])
    texts = pa.chunked_array([texts.cast(pa.large_string())] * 16).combine_chunks()
    batch = pa.record_batch({"text": texts})
    with pa.ipc.new_file(path, batch.schema) as writer:
        writer.write_batch(batch)
    return 160_000, 0


def test_a_line_of_200_mb_is_never_held(tmp_path):
    expected = one_huge_line(tmp_path / "a.jsonl")
    *found, peak = peak_mb(tmp_path / "a.jsonl")
    assert (*found,) == expected
    assert peak < LIMIT_MB / 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), [("a.parquet", huge_texts), ("a.arrow", huge_batch)])
@pytest.mark.thorough
def test_a_row_group_or_batch_larger_than_the_memory_is_read_in_pieces(tmp_path, name, make):
    expected = make(tmp_path / name)
    *found, peak = peak_mb(tmp_path / name)
    assert (*found,) == expected
    assert peak < LIMIT_MB
