"""The bundled conversation record, for hosts that have none of their own."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE conversations (
    id text NOT NULL CONSTRAINT conversations_pkey PRIMARY KEY,
    owner_id text,
    title text,
    status text NOT NULL,
    ai_enabled boolean NOT NULL,
    destination text NOT NULL,
    version bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT conversations_status
        CHECK ((status = 'active') = ai_enabled AND status IN ('active', 'support_active'))
) WITH (fillfactor = 80)
"""


def upgrade() -> None:
    op.execute(TABLE)


def downgrade() -> None:
    op.execute("DROP TABLE conversations")
