-- What can be a seed: one row a passage, or a query with its passage, of the kept rows of a snapshot.
-- Takes min_chars, max_chars and whether a query is needed; returns the smallest pair_id of each.
select min(p.pair_id) as pair_id
from pairs p
join verdicts v using (pair_id)
where v.kept
  and length(p.positive) between ? and ?
  and (p.query is not null or not ?)
group by case when ? then p.query_key else p.positive_key end
order by pair_id
