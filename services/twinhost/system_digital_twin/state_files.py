"""What SystemDigitalTwin keeps in its state folder: the schema of its database, and the folder of its audit log."""

from twinhost.agent.followed_files import MIGRATION as FOLLOWED_FILES
from twinhost.agent.refusals import MIGRATION as REFUSALS
from twinhost.store.audit_log.files import MIGRATION as LEDGER
from twinhost.store.audit_log.files import MIGRATION_RESTORES as LEDGER_RESTORES
from twinhost.store.reply_log import MIGRATION_BY_TRANSACTION as REPLIES_BY_TRANSACTION
from twinhost.store.stored_bytes import Counted, counting
from twinhost.system_digital_twin.attention.attention import MIGRATION as TROUBLES
from twinhost.system_digital_twin.capacity.leases import MIGRATION as LEASES
from twinhost.system_digital_twin.capacity.leases import MIGRATION_ENDS as ENDS_OF_LEASES
from twinhost.system_digital_twin.capacity.time_to_full import MIGRATION as FULL_SOON
from twinhost.system_digital_twin.capacity.time_to_full import MIGRATION_MACHINE as FULL_SOON_OF_MACHINE
from twinhost.system_digital_twin.deduplication import MIGRATION as EVENT_IDS
from twinhost.system_digital_twin.events.events import MIGRATION as EVENTS
from twinhost.system_digital_twin.events.events import MIGRATION_BY_WRITER as EVENTS_BY_WRITER
from twinhost.system_digital_twin.events.events import MIGRATION_FILTERS as EVENT_FILTERS
from twinhost.system_digital_twin.events.events import MIGRATION_SEVERE as SEVERE_EVENTS
from twinhost.system_digital_twin.metrics.history import MIGRATION as METRICS_HISTORY
from twinhost.system_digital_twin.metrics.vram_reports import MIGRATION as VRAM_REPORTS
from twinhost.system_digital_twin.registry.registry import MIGRATION as REGISTRY
from twinhost.system_digital_twin.registry.registry import MIGRATION_STOPPED as STOPPED_AGENTS
from twinhost.system_digital_twin.takeovers import MIGRATION as HOLDERS
from twinhost.system_digital_twin.trust.audit import MIGRATION as KEY_AUDIT

_HOLDER = "json_extract(CAST({{0}}.record AS TEXT), '$.{}')"
COUNTED = (
    Counted("happenings", ("record",)),
    Counted("agents", ("name", "record"), writer=_HOLDER.format("registered_by")),
    Counted("leases", ("lease_id", "record"), writer=_HOLDER.format("holder")),
    Counted("vram_reports", ("record",), writer="{0}.agent_name"),
    Counted("replies", ("requests", "digests", "replies"), writer="{0}.caller"),
)
STORED_BYTES = counting(*COUNTED)
AUDIT_FOLDER = "audit"  # below the agent's state
MIGRATIONS = (  # in the order in which they were added
    REGISTRY,
    LEDGER,
    KEY_AUDIT,
    METRICS_HISTORY,
    VRAM_REPORTS,
    LEASES,
    EVENTS,
    EVENT_IDS,
    LEDGER_RESTORES,
    SEVERE_EVENTS,
    EVENT_FILTERS,
    FULL_SOON,
    REPLIES_BY_TRANSACTION,
    FULL_SOON_OF_MACHINE,
    STORED_BYTES,
    EVENTS_BY_WRITER,
    ENDS_OF_LEASES,
    TROUBLES,
    REFUSALS,
    STOPPED_AGENTS,
    FOLLOWED_FILES,
    HOLDERS,
)
