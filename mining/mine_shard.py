"""The task of a mining run: the candidates of one shard of its queries, ranked and judged."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datatrove.pipeline.base import PipelineStep

from catalog.jobs import JobOutput
from mining.ann import AnnSettings
from mining.candidates import Flags, Reason, candidate_rows, judge, lowest_scores
from mining.mine_settings import MineSettings, on_device
from mining.miners import Materials, rank_passages
from mining.relations import Relations
from mining.relevance import Relevance, RelevanceSettings
from mining.search import NO_PASSAGE, Ids, score_listed

STAGE: Final = "mine"
TABLE: Final = "candidates"


class MineShard(PipelineStep):  # type: ignore[misc]
    """Ranks and judges the passages of one shard of queries, and writes their rows."""

    type = "MINER"
    name = "candidates"

    def __init__(
        self,
        output: JobOutput,
        materials: Materials,
        relations: Relations,
        settings: MineSettings,
        ann_settings: AnnSettings | None,
    ) -> None:
        super().__init__()
        self.output = output
        self.materials = materials
        self.relations = relations
        self.settings = settings
        self.search = settings.search
        self.ann_settings = ann_settings

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[None]:
        """Write one shard; nothing flows on."""
        size = self.settings.shard_queries
        self.search = on_device(self.settings.search, rank)
        here = slice(rank * size, min((rank + 1) * size, len(self.relations.query_ids)))
        with self.output.task(STAGE, rank) as out:
            rows = self.mine(here)
            out.write(TABLE, rows)
            for name, amount in _count(rows).items():
                out.note(name, amount)
        self.output.report_progress(STAGE, rank, rows.num_rows)
        yield from ()

    def mine(self, here: slice) -> pa.Table:
        """Return the candidates of the queries in some rows."""
        settings, relations = self.settings, self.relations
        rows, scores = rank_passages(
            self.materials,
            settings.miners,
            here,
            settings.depth,
            self.ann_settings,
            self.search,
        )
        passage_ids = np.where(rows == NO_PASSAGE, NO_PASSAGE, relations.passage_ids[rows])
        positive_scores = self._positive_scores(here)
        known = relations.known(here)
        flags = judge(passage_ids, scores, known, positive_scores, settings.filters)
        if settings.relevance is not None:
            relevant = self._relevant(here, rows, flags, settings.relevance)
            flags |= np.where(relevant, np.uint8(Reason.CROSS_ENCODER), np.uint8(0))
        query_ids = relations.query_ids[here]
        run = self.output.job_id
        return candidate_rows(run, query_ids, passage_ids, scores, flags, positive_scores)

    def _positive_scores(self, here: slice) -> npt.NDArray[np.float32]:
        offsets, rows = self.relations.positive_rows(here)
        queries = self.materials.vectors("query").read(here.start, here.stop)
        passages = self.materials.vectors("passage")
        scores = score_listed(queries, passages, offsets, rows, self.search)
        return lowest_scores(offsets, scores)

    def _relevant(
        self, here: slice, rows: Ids, flags: Flags, settings: RelevanceSettings
    ) -> npt.NDArray[np.bool_]:
        """Let the cross-encoder read the first candidates that nothing else removed."""
        read = (flags == 0) & (rows != NO_PASSAGE)
        read[:, settings.ranks :] = False
        query, rank = np.nonzero(read)
        queries = self.materials.texts("query").take(query + here.start)
        passages = self.materials.texts("passage").take(rows[query, rank])
        relevant = np.zeros(rows.shape, bool)
        relevant[query, rank] = Relevance(settings).judge(queries, passages)
        return relevant


def _count(rows: pa.Table) -> dict[str, int]:
    """Count queries and candidates by reason."""
    flags = rows["filtered_by"].combine_chunks().flatten().to_numpy()
    counts = {reason.name or "": int((flags & reason > 0).sum()) for reason in Reason}
    return {"queries": rows.num_rows, "kept": int((flags == 0).sum()), **counts}
