-- Passages that are known to answer some queries, of any pair of the lake, as mining knows them, with
-- the teacher scores of their pairs. Of several revisions of a model the last by name counts, of
-- several pairs with the same two texts the first.
-- Returns (query_id, passage_id, models, scores), by query_id and passage_id; the lists are parallel.
-- Binds query_ids.
with known as (
  select t.query_id, t.passage_id, t.pair_id
  from text_ids t
  join pairs p using (pair_id)
  where t.query_id in (select unnest($query_ids::bigint[]))
    and coalesce(p.label, 1) > 0
), scored as (
  select
    k.query_id,
    k.passage_id,
    s.model,
    first(s.score order by s.revision desc, s.pair_id) as score
  from known k
  join scores s using (pair_id)
  group by k.query_id, k.passage_id, s.model
), listed as (
  select
    query_id,
    passage_id,
    list(model order by model) as models,
    list(score order by model) as scores
  from scored
  group by query_id, passage_id
)
select
  k.query_id,
  k.passage_id,
  coalesce(l.models, []) as models,
  coalesce(l.scores, []) as scores
from (select distinct query_id, passage_id from known) k
left join listed l using (query_id, passage_id)
order by k.query_id, k.passage_id
