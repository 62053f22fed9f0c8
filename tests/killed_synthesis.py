"""A synthesis in a process that a test can kill; importing this loads the compiled kernels."""

from catalog.executors import ExecutorSettings, ProgressCallback
from catalog.lake import Catalog
from catalog.snapshots import load_snapshot
from curation.synthesis.endpoint import Endpoint
from curation.synthesis.kinds import normal_texts
from curation.synthesis.prompts import load_prompt
from curation.synthesis.seeds import SeedSettings
from curation.synthesis.settings import SynthesisSettings
from curation.synthesize import Synthesized, synthesize

normal_texts(["warm"])


def settings_of(passages: int, prompt: str = "queries-zh", **more: object) -> SynthesisSettings:
    """Make settings for passages of any length."""
    seeds = SeedSettings(passages, min_chars=1)
    return SynthesisSettings("tiny", load_prompt(prompt), seeds, **more)  # type: ignore[arg-type]


def run_synthesis(
    url: str,
    server: str,
    passages: int,
    prompt: str = "queries-zh",
    *,
    timeout_s: float = 2,
    progress: ProgressCallback | None = None,
    **more: object,
) -> Synthesized:
    """Synthesize about a snapshot v1, quickly impatient."""
    catalog = Catalog.open(url)
    quick = Endpoint(server, concurrency=4, timeout_s=timeout_s, max_requests=3, backoff_s=0.01)
    settings = settings_of(passages, prompt, **more)
    alone = ExecutorSettings(workers=1)
    return synthesize(catalog, load_snapshot(catalog, "v1"), settings, quick, alone, progress)
