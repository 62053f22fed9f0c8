-- Passages to mine from: those of kept rows, queries or not.
-- Returns (passage_id, positive_key), by passage_id.
select p.pair_id as passage_id, p.positive_key
from pairs p
semi join mine_kept k on k.passage_id = p.pair_id
order by p.pair_id
