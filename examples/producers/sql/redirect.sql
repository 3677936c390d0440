-- Redirect a conversation in the transaction that changes your own data: both happen, or neither.
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -v conversation=c-sql-1 -f redirect.sql
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -v conversation=c-sql-2 -v end=ROLLBACK -f redirect.sql
--
-- The role needs: GRANT EXECUTE ON FUNCTION enqueue_redirect(json) TO <role>

\if :{?end}
\else
  \set end COMMIT
\endif

CREATE TABLE IF NOT EXISTS sql_tickets (conversation_id text PRIMARY KEY, team text NOT NULL);

BEGIN;

INSERT INTO sql_tickets (conversation_id, team) VALUES (:'conversation', 'billing');

-- The id of the event follows from what it is about: sent twice, it is the same event.
SELECT enqueue_redirect(json_build_object(
    'event_id', 'sql-ticket-' || :'conversation',
    'conversation_id', :'conversation',
    'destination', 'billing',
    'source', 'examples/sql',
    'reason', 'a ticket was opened'));

:end;
