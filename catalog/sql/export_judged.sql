-- Makes the temporary table of judgments (query_id, passage_id, score): 1 where a pair has no label,
-- and the label rounded up, as qrels are whole numbers, where it has one: 0 is judged irrelevant.
-- The grade of a labelled sts pair is a similarity and no judgment.
-- Returns nothing.
create temp table judged as
select
  coalesce(t.query_id, c.pair_id) as query_id,
  coalesce(t.passage_id, c.pair_id) as passage_id,
  max(case when c.label is null then 1 else greatest(ceil(c.label), 0) end)::bigint as score
from curated c
left join text_ids t using (pair_id)
where c.query is not null
  and (c.task <> 'sts' or c.label is null)
group by all
