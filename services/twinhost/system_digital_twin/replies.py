"""What SystemDigitalTwin answers, by what it is asked."""

from twinhost.agent.common_actions import AnnounceProbes, GetHealth, GetPeers, HealthCheck, Ping
from twinhost.agent.replies import HealthDocument, Peers, Pong, ProbesAnnounced, Replies
from twinhost.system_digital_twin.audit_actions import GetAudit
from twinhost.system_digital_twin.event_messages import GetErrors, GetEvents, PublishEvent, ReportError
from twinhost.system_digital_twin.event_replies import ErrorsTold, ErrorStored, EventsTold, EventStored
from twinhost.system_digital_twin.key_messages import ConfirmKey, Enrol, GetTrust, ProposeKey, RetireKeys
from twinhost.system_digital_twin.key_replies import AuditPage, Confirmed, Enrolled, Proposed, Retired, TrustTold
from twinhost.system_digital_twin.load_messages import (
    CommitLease,
    ListLeases,
    ReleaseLease,
    ReserveRam,
    ReserveVram,
    SimulateLoad,
)
from twinhost.system_digital_twin.load_replies import Committed, LeasesTold, LoadSimulated, Placed, Released, Reserved
from twinhost.system_digital_twin.messages import (
    Discover,
    GetAgentEndpoint,
    GetAgentInfo,
    GetAllAgents,
    GetOkAgents,
    GetRegisteredAgents,
    Heartbeat,
    RegisterAgent,
    Unregister,
)
from twinhost.system_digital_twin.metrics_messages import GetHistory, GetMetrics, ReportMetrics, UpdateVramMetrics
from twinhost.system_digital_twin.metrics_replies import (
    HistoriesTold,
    HistoryTold,
    MetricsNoted,
    MetricsNow,
    MetricsSoFar,
    VramNoted,
)
from twinhost.system_digital_twin.registry_replies import (
    AgentFound,
    AllAgents,
    Beaten,
    Discovery,
    EndpointFound,
    OkAgents,
    Registered,
    RegisteredAgents,
    Unregistered,
)

REPLIES: Replies = {
    Ping: Pong,
    GetHealth: HealthDocument,
    HealthCheck: HealthDocument,
    GetPeers: Peers,
    AnnounceProbes: ProbesAnnounced,
    RegisterAgent: Registered,
    Heartbeat: Beaten,
    Unregister: Unregistered,
    Discover: Discovery,
    GetAllAgents: AllAgents,
    GetRegisteredAgents: RegisteredAgents,
    GetOkAgents: OkAgents,
    GetAgentInfo: AgentFound,
    GetAgentEndpoint: EndpointFound,
    GetMetrics: MetricsNow | MetricsSoFar,
    GetHistory: HistoryTold | HistoriesTold,
    ReportMetrics: MetricsNoted,
    UpdateVramMetrics: VramNoted,
    SimulateLoad: LoadSimulated,
    ReserveVram: Reserved | Placed,
    ReserveRam: Reserved | Placed,
    CommitLease: Committed,
    ReleaseLease: Released,
    ListLeases: LeasesTold,
    PublishEvent: EventStored,
    ReportError: ErrorStored,
    GetEvents: EventsTold,
    GetErrors: ErrorsTold,
    Enrol: Enrolled,
    ProposeKey: Proposed,
    ConfirmKey: Confirmed,
    RetireKeys: Retired,
    GetTrust: TrustTold,
    GetAudit: AuditPage,
}
