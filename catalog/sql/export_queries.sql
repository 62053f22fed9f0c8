-- The kept pairs of a snapshot, those of a query together, and after them the candidates that the
-- query may take: rows whose preference is not null and whose positive is the candidate's text.
-- A sort spills to disk where lists of texts would not.
-- Returns (query_id, preference, pair_id, source, form, task, query, positive, negatives, label,
-- url, instruction, meta, score, rank), by query_id, preference with pairs first, and pair_id.
-- Takes taken (a Parquet file of query_id, passage_id, preference, rank, score) and model, whose
-- scores the pairs get.
with scored as (
  select pair_id, score
  from lake_now.scores
  where model = $model
)
select
  coalesce(t.query_id, c.pair_id) as query_id,
  null::bigint as preference,
  c.pair_id,
  c.source,
  c.form,
  c.task,
  c.query,
  c.positive,
  c.negatives,
  c.label,
  c.url,
  {instruction} as instruction,
  c.meta,
  s.score,
  null::bigint as rank
from curated c
left join text_ids t using (pair_id)
left join scored s using (pair_id)
where c.query is not null
union all
select
  m.query_id,
  m.preference,
  m.passage_id as pair_id,
  p.source,
  p.form,
  p.task,
  null as query,
  p.positive,
  null as negatives,
  null as label,
  p.url,
  null as instruction,
  null as meta,
  m.score,
  m.rank
from read_parquet($taken) m
join pairs p on p.pair_id = m.passage_id
order by query_id, preference nulls first, pair_id
