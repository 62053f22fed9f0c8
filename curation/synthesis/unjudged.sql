-- Kept rows of a snapshot that a model may judge, and whether the table judged has them.
-- Takes whether a query is needed, three times; {where} is the user's condition over the columns of
-- pairs. Without a query a row is a passage, and pair_ids are all chosen pairs that hold it.
select
  min(p.pair_id) as pair_id,
  case when ? then min_by(p.query, p.pair_id) end as query,
  min_by(p.positive, p.pair_id) as passage,
  list(p.pair_id order by p.pair_id) as pair_ids,
  bool_or(j.pair_id is not null) as is_judged
from (select * from pairs where {where}) p
join verdicts v using (pair_id)
left join judged j using (pair_id)
where v.kept and (p.query is not null or not ?)
group by case when ? then p.pair_id::varchar else p.positive_key::varchar end
order by pair_id
