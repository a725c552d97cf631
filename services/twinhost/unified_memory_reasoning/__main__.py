"""`python -m twinhost.unified_memory_reasoning`: the agent on pc2."""

import sys

from twinhost.agent.assembly import Assembly, Foundation
from twinhost.agent.common_actions import OperatorActions
from twinhost.agent.dialects import commands
from twinhost.agent.health import iso_time
from twinhost.agent.membership.audit_witness import WitnessActions
from twinhost.agent.membership.member import Description, Membership
from twinhost.agent.membership.outbox import MIGRATION as MEMBERSHIP_MIGRATION
from twinhost.agent.process import run_agent
from twinhost.store import damage
from twinhost.unified_memory_reasoning import SUCCESS
from twinhost.unified_memory_reasoning.coordination.actions import CoordinationActions
from twinhost.unified_memory_reasoning.dialect import COMMANDS
from twinhost.unified_memory_reasoning.memory import FEATURES as MEMORY_FEATURES
from twinhost.unified_memory_reasoning.memory import (
    LATER_MIGRATIONS,
    REBUILDS,
    Memory,
    MemoryHealth,
    MemoryHealthActions,
    OutboxDocument,
)
from twinhost.unified_memory_reasoning.memory import MIGRATIONS as MEMORY_MIGRATIONS

NAME = "UnifiedMemoryReasoningAgent"
MIGRATIONS = (*MEMORY_MIGRATIONS, MEMBERSHIP_MIGRATION, *LATER_MIGRATIONS)
FEATURES = (MemoryHealthActions, OperatorActions, *MEMORY_FEATURES, CoordinationActions, WitnessActions)
DESCRIPTION = Description("memory", ["contexts", "search", "memories", "error_patterns", "twins", "coordination"])


def assemble(foundation: Foundation) -> Assembly:
    """Build the agent's actions on its store, and its membership."""
    settings, counters = foundation.settings, foundation.counters
    limits = settings.config.limits
    member = Membership(foundation, DESCRIPTION)
    if (warning := damage.damage_warning(foundation.database.path)) is not None:
        with foundation.database.transaction():
            member.outbox.report_error("store_damage", warning, severity="critical")
    memory = Memory(foundation.database, settings.config.recall, limits.max_payload_bytes, member.publish)

    def outbox() -> OutboxDocument:
        owed = member.outbox.queue.document()
        return {
            "waiting": owed["waiting"],
            "oldest": owed["oldest"],
            "set_aside": owed["set_aside"],
            "let_go": owed["let_go"],
        }

    def document() -> MemoryHealth:
        last = counters.last_request_time
        return {
            **foundation.health.document(),
            "request_count": counters.requests,
            "error_count": counters.errors,
            "last_request_time": iso_time(last) if last is not None else None,
            **memory.totals(),
            "outbox": outbox(),
        }

    def on_tick() -> None:
        member.on_tick()
        memory.on_tick()  # the last: it may end the process, to start with a restored backup

    return Assembly(
        actions=[
            *memory.actions(),
            *CoordinationActions(member, NAME).actions(),
            *member.actions(SUCCESS),
        ],
        success=SUCCESS,
        sentence_fields=("error", "reason"),
        translate=commands(COMMANDS, max_bytes=limits.max_payload_bytes, anywhere=True, not_found="ERROR"),
        health=MemoryHealthActions(document),
        on_tick=on_tick,
        on_refusal=member.on_refusal,
        on_stop=memory.on_stop,
        companions=member.companions,
    )


if __name__ == "__main__":
    sys.exit(run_agent(NAME, MIGRATIONS, assemble, quarantine_damage=True, rebuilds=REBUILDS))
