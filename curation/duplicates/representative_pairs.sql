-- Returns the pair_id of every pair that stands for the pair as a whole: the smallest that is equal.
-- A row without a query is equal to another without a query and with its passage.
select min(pair_id) as pair_id
from pairs
group by coalesce(pair_key, positive_key)
