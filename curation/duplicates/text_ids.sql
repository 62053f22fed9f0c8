-- Returns pair_id, query_id, passage_id of the pairs from $new_from on, in the order of pair_id:
-- for each side the smallest pair of the whole catalog that holds the same normalised text.
with fresh as (
  select pair_id, query_key, positive_key
  from pairs
  where pair_id >= $new_from
),
fresh_queries as (
  select query_key as key, min(pair_id) as id
  from fresh
  where query_key is not null
  group by key
),
fresh_passages as (
  select positive_key as key, min(pair_id) as id
  from fresh
  group by key
),
known_queries as (
  select p.query_key as key, min(p.pair_id) as id
  from pairs p semi join fresh_queries f on p.query_key = f.key
  where p.pair_id < $new_from
  group by p.query_key
),
known_passages as (
  select p.positive_key as key, min(p.pair_id) as id
  from pairs p semi join fresh_passages f on p.positive_key = f.key
  where p.pair_id < $new_from
  group by p.positive_key
),
queries as (
  select f.key, coalesce(k.id, f.id) as id
  from fresh_queries f left join known_queries k using (key)
),
passages as (
  select f.key, coalesce(k.id, f.id) as id
  from fresh_passages f left join known_passages k using (key)
)
select f.pair_id, q.id as query_id, p.id as passage_id
from fresh f
left join queries q on f.query_key = q.key
join passages p on f.positive_key = p.key
order by f.pair_id
