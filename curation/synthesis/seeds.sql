-- The texts of chosen seeds, in the order that was drawn.
-- Takes the table chosen_seeds (place, pair_id); returns (pair_id, query, passage).
select
  p.pair_id,
  p.query,
  p.positive as passage
from chosen_seeds c
join pairs p using (pair_id)
order by c.place
