-- Pairs by source and failed conditions, with the sums of their lengths in characters.
-- Returns (source, fails, pairs, query_chars, passage_chars): a few thousand rows for any lake.
-- Takes masks (a query), pairs (a table), the two sums, joins.
with masks as (
{masks}
)
select
  p.source,
  m.fails,
  count(*) as pairs,
  {query_chars} as query_chars,
  {passage_chars} as passage_chars
from masks m
join {pairs} p using (pair_id){joins}
where m.is_pair
group by p.source, m.fails
order by p.source, m.fails
