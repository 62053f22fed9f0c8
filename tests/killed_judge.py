"""A judge in a process that a test can kill; importing this loads the compiled kernels."""

from catalog.lake import Catalog
from catalog.snapshots import load_snapshot
from curation.judge import Judged, Selection, judge
from curation.synthesis.choices import JudgeSettings, load_choices
from curation.synthesis.endpoint import Endpoint
from curation.synthesis.kinds import normal_texts

normal_texts(["warm"])


def run_judge(
    url: str,
    server: str,
    prompt: str,
    selection: Selection | None = None,
    model: str = "tiny",
) -> Judged:
    """Judge a snapshot v1, quickly impatient."""
    catalog = Catalog.open(url)
    quick = Endpoint(server, concurrency=4, timeout_s=2, max_requests=3, backoff_s=0.01)
    settings = JudgeSettings(model, load_choices(prompt))
    return judge(catalog, load_snapshot(catalog, "v1"), settings, quick, selection)
