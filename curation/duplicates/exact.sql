-- Returns the rows of duplicates for pairs of which another is equal on both sides.
with copies as (
  -- A row without a query is equal to another without a query and with its passage.
  select
    coalesce(pair_key, positive_key) as key,
    min(pair_id, 2) as first_ids,
    count(*) as cluster_size
  from pairs
  group by key
  having count(*) > 1
)
select
  p.pair_id,
  'exact' as kind,
  c.first_ids[1] as cluster_id,
  p.pair_id as text_id,
  case when p.pair_id = c.first_ids[1] then c.first_ids[2] else c.first_ids[1] end as matched_id,
  1::float as jaccard,
  c.cluster_size,
  false as template,
  p.pair_id = c.first_ids[1] as survivor
from pairs p
join copies c on coalesce(p.pair_key, p.positive_key) = c.key
order by p.pair_id
