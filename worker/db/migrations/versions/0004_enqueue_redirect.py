"""`enqueue_redirect(event)`: the door to the outbox, which says at once what would otherwise be rejected later."""

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# json, not jsonb: then a \u0000 arrives here and is refused with the cure. No second function for jsonb, because a call
# with a plain literal would fit both.
# SECURITY DEFINER, so that a producer needs this one right: not INSERT on the table, nor SELECT on its id. It can do no
# more than that with it: one fixed statement, and a search_path that nobody else can put anything into.
FUNCTION = """
CREATE FUNCTION enqueue_redirect(event json) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $function$
DECLARE
    body jsonb;
    one jsonb;
    field text;
    row_id bigint;
BEGIN
    BEGIN
        body := event::jsonb;
    EXCEPTION
        WHEN untranslatable_character THEN
            RAISE EXCEPTION 'an event should not contain the character NUL'
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave \\u0000 out: PostgreSQL cannot store it.';
        WHEN data_exception THEN
            RAISE EXCEPTION 'an event should be JSON that PostgreSQL can store: %', SQLERRM
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Look for half a surrogate pair, or a huge number.';
    END;
    IF coalesce(jsonb_typeof(body), 'null') NOT IN ('object', 'array') OR body = '[]' THEN
        RAISE EXCEPTION 'an event should be a JSON object, or an array of them, not %',
                CASE WHEN body = '[]' THEN 'an empty array' ELSE coalesce(jsonb_typeof(body), 'NULL') END
            USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Such as {"event_id": "e1", "conversation_id": "c1", "destination": "billing"}.';
    END IF;
    -- A row for each, so that each has its own time.
    FOR one IN
        SELECT value FROM jsonb_array_elements(
            CASE jsonb_typeof(body) WHEN 'array' THEN body ELSE jsonb_build_array(body) END)
    LOOP
        IF jsonb_typeof(one) <> 'object' THEN
            RAISE EXCEPTION 'an array of events should hold JSON objects, not %', jsonb_typeof(one)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Pass the events themselves, not JSON as text.';
        END IF;
        -- What a CloudEvent lacks, the intake says: its fields may be in two places.
        FOREACH field IN ARRAY ARRAY['event_id', 'conversation_id', 'destination'] LOOP
            IF NOT one ? 'specversion' AND jsonb_typeof(one -> field) IS DISTINCT FROM 'string' THEN
                RAISE EXCEPTION 'an event should have % as text', field
                    USING ERRCODE = 'invalid_parameter_value',
                        HINT = 'event_id, conversation_id and destination are required, and are text, not numbers.';
            END IF;
        END LOOP;
        INSERT INTO {schema}.event_outbox (body) VALUES (one) RETURNING id INTO row_id;
    END LOOP;
    RETURN row_id;
END
$function$
"""
COMMENT = """
COMMENT ON FUNCTION enqueue_redirect(json) IS
    'Puts a redirect event, or each of an array, into event_outbox, in your transaction. Returns the (last) row''s id.'
"""


def upgrade() -> None:
    connection = op.get_bind()
    schema = connection.scalar(text("SELECT quote_ident(current_schema())"))
    # Events of one transaction are decided one after the other, and now() is the same for all of them.
    op.execute("ALTER TABLE event_outbox ALTER COLUMN created_at SET DEFAULT clock_timestamp()")
    connection.exec_driver_sql(FUNCTION.replace("{schema}", str(schema)).replace("%", "%%"))
    op.execute(COMMENT)
    # PostgreSQL lets everybody call a new function; this one acts with the owner's rights.
    op.execute("REVOKE ALL ON FUNCTION enqueue_redirect(json) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION enqueue_redirect(json)")
    op.execute("ALTER TABLE event_outbox ALTER COLUMN created_at SET DEFAULT now()")
