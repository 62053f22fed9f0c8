-- Queries to mine for, with the passage that is the same text.
-- Returns (query_id, query_key, same_text: a passage_id or -1), by query_id.
with keys as (
  select q.query_id, p.query_key
  from mine_queries q
  join pairs p on p.pair_id = q.query_id
),
same_texts as (
  select k.query_id, p.pair_id
  from keys k join pairs p on p.positive_key = k.query_key
  union all
  -- The key of a query with an instruction of its own is no passage's.
  select i.query_id, p.pair_id
  from instructed_queries i join pairs p on p.positive = i.query
)
select
  k.query_id,
  k.query_key,
  coalesce(min(t.passage_id), -1) as same_text
from keys k
left join same_texts s on s.query_id = k.query_id
left join text_ids t on t.pair_id = s.pair_id
group by k.query_id, k.query_key
order by k.query_id
