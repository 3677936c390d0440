"""What people look at: the inbox, newest first, of one owner and of everybody; what was refused, by conversation."""

from alembic import op

from worker.db.migrations.indexes import build

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# An inbox of everybody is merged from its destinations (worker/db/inbox.py), so that a redirect keeps two indexes, not
# one for each way of looking at it.
INDEXES = {
    "conversation_states_owner": "conversation_states (owner_id, updated_at, conversation_id)",
    "conversation_states_destination": "conversation_states (destination, updated_at, conversation_id)",
    "rejected_events_conversation": (
        "rejected_events (conversation_id, received_at) WHERE conversation_id IS NOT NULL"
    ),
}


def upgrade() -> None:
    op.execute("ALTER TABLE rejected_events ADD COLUMN IF NOT EXISTS conversation_id text")
    build(INDEXES)


def downgrade() -> None:
    op.execute("ALTER TABLE rejected_events DROP COLUMN conversation_id")
    op.execute("DROP INDEX conversation_states_owner, conversation_states_destination")
