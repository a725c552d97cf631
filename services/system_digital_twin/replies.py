"""What SystemDigitalTwin answers, by what it is asked."""

from system_digital_twin.audit_actions import GetAudit
from system_digital_twin.event_messages import GetErrors, GetEvents, PublishEvent, ReportError
from system_digital_twin.event_replies import ErrorsTold, ErrorStored, EventsTold, EventStored
from system_digital_twin.key_messages import ConfirmKey, Enrol, GetTrust, ProposeKey, RetireKeys
from system_digital_twin.key_replies import AuditPage, Confirmed, Enrolled, Proposed, Retired, TrustTold
from system_digital_twin.load_messages import (
    CommitLease,
    ListLeases,
    ReleaseLease,
    ReserveRam,
    ReserveVram,
    SimulateLoad,
)
from system_digital_twin.load_replies import Committed, LeasesTold, LoadSimulated, Placed, Released, Reserved
from system_digital_twin.messages import (
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
from system_digital_twin.metrics_messages import GetHistory, GetMetrics, ReportMetrics, UpdateVramMetrics
from system_digital_twin.metrics_replies import (
    HistoriesTold,
    HistoryTold,
    MetricsNoted,
    MetricsNow,
    MetricsSoFar,
    VramNoted,
)
from system_digital_twin.registry_replies import (
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
from twinhost.agent.common_actions import AnnounceProbes, GetHealth, GetPeers, HealthCheck, Ping
from twinhost.agent.replies import HealthDocument, Peers, Pong, ProbesAnnounced, Replies

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
