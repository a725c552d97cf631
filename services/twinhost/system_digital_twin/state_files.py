"""What SystemDigitalTwin keeps in its state folder: the schema of its database, and the folder of its audit log."""

from twinhost.store.audit_log.ledger import MIGRATION as LEDGER
from twinhost.store.audit_log.ledger import MIGRATION_RESTORES as LEDGER_RESTORES
from twinhost.system_digital_twin.events import MIGRATION as EVENTS
from twinhost.system_digital_twin.events import MIGRATION_IDS as EVENT_IDS
from twinhost.system_digital_twin.events import MIGRATION_SEVERE as SEVERE_EVENTS
from twinhost.system_digital_twin.key_audit import MIGRATION as KEY_AUDIT
from twinhost.system_digital_twin.leases import MIGRATION as LEASES
from twinhost.system_digital_twin.metrics_history import MIGRATION as METRICS_HISTORY
from twinhost.system_digital_twin.registry import MIGRATION as REGISTRY
from twinhost.system_digital_twin.vram_reports import MIGRATION as VRAM_REPORTS

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
)
