"""The tables of the contract, as SQLAlchemy reads and Alembic checks them; the rules live in their constraints."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ck": "%(table_name)s_%(constraint_name)s",
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_name)s",
    }
)


def _now(name: str) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


def _status_follows_ai() -> CheckConstraint:
    return CheckConstraint("(status = 'active') = ai_enabled AND status IN ('active', 'support_active')", name="status")


conversation_states = Table(
    "conversation_states",
    metadata,
    Column("conversation_id", Text, primary_key=True),
    Column("owner_id", Text),
    Column("status", Text, nullable=False),
    Column("ai_enabled", Boolean, nullable=False),
    Column("destination", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    Column("event_id", Text, nullable=False),
    _now("updated_at"),
    _status_follows_ai(),
    CheckConstraint("(destination = 'ai') = ai_enabled", name="destination"),
    # Version 0 is a row that a transaction has made to lock it, and has not filled yet: it never outlives it.
    CheckConstraint("version >= 0", name="version"),
    Index("conversation_states_owner", "owner_id", "updated_at", "conversation_id"),
    Index("conversation_states_destination", "destination", "updated_at", "conversation_id"),
)

redirects = Table(
    "redirects",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("conversation_id", Text, nullable=False),
    Column("destination", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("code", Text),
    Column("version", BigInteger, nullable=False),
    Column("previous_status", Text),
    Column("status", Text, nullable=False),
    Column("owner_id", Text),
    Column("source", Text),
    Column("actor", JSONB),
    Column("reason", Text),
    Column("metadata", JSONB),
    Column("occurred_at", DateTime(timezone=True), nullable=False),
    _now("received_at"),
    CheckConstraint("outcome IN ('applied', 'noop', 'superseded')", name="outcome"),
    CheckConstraint("version >= 1", name="version"),
    Index("redirects_conversation", "conversation_id", "received_at"),
    Index("redirects_received_at", "received_at"),
)

side_effects = Table(
    "side_effects",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("conversation_ids", ARRAY(Text), nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("failures", Integer, nullable=False, server_default="0"),
    _now("due_at"),
    Column("last_error", Text),
    _now("created_at"),
    _now("updated_at"),
    # The kinds themselves are listed once, in worker/policy.py: a fourth is no migration.
    CheckConstraint("kind ~ '^[a-z_]+$'", name="kind"),
    CheckConstraint("state IN ('waiting', 'dead')", name="state"),
    CheckConstraint("failures >= 0", name="failures"),
    CheckConstraint("cardinality(conversation_ids) > 0", name="conversation_ids"),
    CheckConstraint("state = 'waiting' OR last_error IS NOT NULL", name="dead_has_a_reason"),
    Index("side_effects_due", "kind", "due_at", postgresql_where=text("state = 'waiting'")),
    Index("side_effects_dead", "kind", postgresql_where=text("state = 'dead'")),
)

rejected_events = Table(
    "rejected_events",
    metadata,
    Column("id", Uuid, primary_key=True),
    _now("received_at"),
    Column("source", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("body", Text, nullable=False),
    # What it is about, as far as it can be read.
    Column("conversation_id", Text),
    Index("rejected_events_received_at", "received_at"),
    Index(
        "rejected_events_conversation",
        "conversation_id",
        "received_at",
        postgresql_where=text("conversation_id IS NOT NULL"),
    ),
)

event_outbox = Table(
    "event_outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("body", JSONB, nullable=False),
    # Not now(): events of one transaction are decided one after the other.
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text),
    Column("title", Text),
    Column("status", Text, nullable=False),
    Column("ai_enabled", Boolean, nullable=False),
    Column("destination", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    _now("updated_at"),
    _status_follows_ai(),
)

# Numbers that only grow (worker/db/counters.py). Of a number that is counted up to a time, `updated_at` is that time.
counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("labels", ARRAY(Text), primary_key=True, server_default="{}"),
    Column("value", Double, nullable=False, server_default=text("0")),
    _now("updated_at"),
)

# What is watched after a redirect where a host's rows say who answers (worker/hosts/pilito).
guards = Table(
    "guards",
    metadata,
    Column("conversation_id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("before", Text),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("due_at", DateTime(timezone=True)),
    Column("reasserted", Boolean, nullable=False, server_default="false"),
    Index("guards_due_at", "due_at"),
)

# What a host's own process has left, by which it is seen that a key is the same on both sides.
proofs = Table(
    "proofs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    _now("updated_at"),
)

# One row: how far the comparison of copies with the truth has come (worker/db/reconciliation.py).
reconciliation = Table(
    "reconciliation",
    metadata,
    Column("id", SmallInteger, primary_key=True, server_default=text("1")),
    Column("marker", BigInteger, nullable=False, server_default=text("0")),
    Column("after", Text, nullable=False, server_default=""),
    Column("whole", Boolean, nullable=False, server_default="false"),
    _now("recent"),
    Column("pending", JSONB, nullable=False, server_default="{}"),
    CheckConstraint("id = 1", name="one_row"),
)
