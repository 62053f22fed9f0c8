-- Returns the pair_id of every pair that stands for its text: the smallest that holds it.
-- Takes $text ('passage' or 'pair') and the relation every_text_id (text_ids, the new ones included).
select pair_id
from every_text_id
where $text = 'passage' and passage_id = pair_id
union all
-- A row without a query is as a pair what its passage is.
select min(pair_id) as pair_id
from pairs
where $text = 'pair'
group by coalesce(pair_key, positive_key)
