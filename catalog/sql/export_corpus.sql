-- The passages of a snapshot, each text once: positives, and rows without a query.
-- Returns (passage_id, text), by passage_id.
with kept as (
  select distinct coalesce(t.passage_id, c.pair_id) as passage_id
  from curated c
  left join text_ids t using (pair_id)
)
select p.pair_id as passage_id, p.positive as text
from pairs p
semi join kept k on k.passage_id = p.pair_id
order by p.pair_id
