-- Makes temporary tables: kept rows that are mined, with the ids of their texts, and their queries.
-- Returns nothing. Takes tasks (a list of names).
create temp table mine_kept as
select
  t.query_id,
  t.passage_id,
  coalesce(p.label, 1) > 0 as is_positive
from verdicts v
join text_ids t using (pair_id)
join pairs p using (pair_id)
where v.kept
  and list_contains($tasks, p.task);

create temp table mine_queries as
select distinct query_id from mine_kept where query_id is not null;
