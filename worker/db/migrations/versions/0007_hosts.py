"""For a host whose own rows say who answers: what is watched after a redirect, and what proves a key."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

GUARDS = """
CREATE TABLE guards (
    conversation_id text NOT NULL CONSTRAINT guards_pkey PRIMARY KEY,
    version bigint NOT NULL,
    before text,
    since timestamptz NOT NULL,
    due_at timestamptz,
    reasserted boolean NOT NULL DEFAULT false
)
"""
PROOFS = """
CREATE TABLE proofs (
    name text NOT NULL CONSTRAINT proofs_pkey PRIMARY KEY,
    value bytea NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
)
"""


def upgrade() -> None:
    op.execute(GUARDS)
    op.execute("CREATE INDEX guards_due_at ON guards (due_at)")
    op.execute(PROOFS)


def downgrade() -> None:
    op.execute("DROP TABLE proofs")
    op.execute("DROP TABLE guards")
