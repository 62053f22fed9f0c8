-- Why rows could not be read: (reason, rows), most frequent first.
-- Takes quarantine (a table).
select reason, count(*) as rows
from {quarantine}
group by reason
order by rows desc, reason
