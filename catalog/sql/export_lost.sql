-- Candidates whose text is not in the snapshot's version of the lake.
-- Returns (rows, first passage_id). Takes taken (a Parquet file).
select count(*) as rows, min(m.passage_id) as passage_id
from read_parquet($taken) m
anti join pairs p on p.pair_id = m.passage_id
