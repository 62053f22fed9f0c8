"""The page: one HTML file that needs nothing else, neither a network nor its script."""

from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from catalog.report import (
    clusters,
    funnel,
    histograms,
    numbers,
    overlaps,
    rank_curves,
    score_groups,
    svg,
    titles,
)
from catalog.report.data import ReportData

FOLDER: Final = Path(__file__).parent
# Of a query; ten are what the first replacement window skips.
SHOWN_POSITIVES: Final = 3
SHOWN_CANDIDATES: Final = 12
# What a text may hold that would not be seen, or would turn the line round, is shown as a mark.
INVISIBLE: Final[dict[int, int | str]] = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0x200B, 0x2010), *range(0x202A, 0x202F)], "�"),
    **dict.fromkeys([*range(0x2060, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC)], "�"),
}


def render(data: ReportData) -> str:
    """Write the report as HTML; every text of the corpus is escaped."""
    return _template().render(data=data, tabs=_samples_by_reason(data))


def visible(text: str) -> str:
    """Show control characters and marks of direction instead of obeying them."""
    return text.translate(INVISIBLE)


def _samples_by_reason(data: ReportData) -> list[tuple[Any, list[Any]]]:
    """Put the samples under their reasons, in the order of the policy."""
    groups = []
    for reason in data.reasons:
        samples = [sample for sample in data.samples if sample.reason == reason.name]
        if samples:
            groups.append((reason, samples))
    return groups


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        count=numbers.count, value=numbers.value, plural=numbers.plural, visible=visible,
        cut=svg.cut,
    )  # fmt: skip
    environment.globals.update(
        share=numbers.share,
        titles=titles,
        style=Markup(svg.palette() + svg.PICTURE_STYLE + _read("style.css")),
        shown_positives=SHOWN_POSITIVES,
        shown_candidates=SHOWN_CANDIDATES,
        mining_style=Markup(_read("mining.css")),
        script=Markup(_read("script.js")),
        draw_funnel=_drawing(funnel.draw_funnel),
        draw_overlaps=_drawing(overlaps.draw_overlaps),
        draw_histogram=_drawing(histograms.draw_histogram),
        draw_clusters=_drawing(clusters.draw_clusters),
        draw_score_groups=_drawing(score_groups.draw_score_groups),
        draw_rank_scores=_drawing(rank_curves.draw_rank_scores),
        draw_rank_kept=_drawing(rank_curves.draw_rank_kept),
    )
    return environment.get_template("page.html")


def _drawing(draw: Any) -> Any:
    """Mark what a drawing function returns as markup: it escapes by itself."""

    def marked(*values: Any, **options: Any) -> Markup:
        return Markup(draw(*values, **options))

    return marked


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
