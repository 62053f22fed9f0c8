-- Returns the pair_id of every old pair that stands for its passage: the smallest that holds it.
-- Takes the relation every_text_id.
select pair_id
from every_text_id
where passage_id = pair_id
