-- The pairs to show for each condition: those of the smallest hash, so always the same ones.
-- Returns (position, pair_id, fails), at most `shown` for each position.
-- A pair is a candidate of a condition where its hash is below the condition's limit, which is set so
-- that some dozens are expected: no global sort. `rare` holds the bits of conditions whose limit is
-- everything; `common` is the largest of the other limits.
-- Takes masks (a query), reasons (values of position, bit, limit); binds rare, common, shown.
with masks as (
{masks}
), judged as (
  select pair_id, fails, md5_number_lower('report sample ' || pair_id) as hash
  from masks
  where is_pair and fails <> 0
), candidates as (
  select pair_id, fails, hash
  from judged
  where fails & $rare::ubigint <> 0 or hash <= $common::ubigint
), ranked as (
  select
    r.position,
    c.pair_id,
    c.fails,
    row_number() over (partition by r.position order by c.hash, c.pair_id) as rank
  from candidates c
  join (values {reasons}) r(position, bit, highest)
    on c.fails & r.bit <> 0 and c.hash <= r.highest
)
select position, pair_id, fails
from ranked
where rank <= $shown
order by position, rank
