"""What operators ask for: numbers that only grow, and how far the comparison of copies with the truth has come."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COUNTERS = """
CREATE TABLE counters (
    name text NOT NULL,
    labels text[] NOT NULL DEFAULT '{}',
    value double precision NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT counters_pkey PRIMARY KEY (name, labels)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)
"""
# From now on redirects and refusals are counted: what is kept from before is history, and may be much.
BEGIN_COUNTING = (
    "INSERT INTO counters (name, labels) VALUES ('counted', '{redirects}'), ('counted', '{rejected_events}')"
)
RECONCILIATION = """
CREATE TABLE reconciliation (
    id smallint NOT NULL DEFAULT 1 CONSTRAINT reconciliation_pkey PRIMARY KEY,
    marker bigint NOT NULL DEFAULT 0,
    after text NOT NULL DEFAULT '',
    whole boolean NOT NULL DEFAULT false,
    recent timestamptz NOT NULL DEFAULT now(),
    pending jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT reconciliation_one_row CHECK (id = 1)
)
"""


def upgrade() -> None:
    op.execute(COUNTERS)
    op.execute(BEGIN_COUNTING)
    op.execute(RECONCILIATION)
    op.execute("INSERT INTO reconciliation DEFAULT VALUES")


def downgrade() -> None:
    op.execute("DROP TABLE reconciliation")
    op.execute("DROP TABLE counters")
