"""What UnifiedMemoryReasoningAgent answers to each request."""

from twinhost.agent.common_actions import AnnounceProbes, GetHealth, GetPeers, HealthCheck, Ping
from twinhost.agent.membership.witness_actions import AcceptAuditLog, AuditHeads, AuditLogAccepted, GetAuditHeads
from twinhost.agent.replies import Peers, ProbesAnnounced, Replies
from twinhost.unified_memory_reasoning.conversations.context_messages import AddInteraction, ClearContext, GetContext
from twinhost.unified_memory_reasoning.conversations.context_replies import (
    ContextCleared,
    ContextFound,
    InteractionAdded,
)
from twinhost.unified_memory_reasoning.keeping.backup_messages import (
    AcknowledgeDamage,
    BackupStatus,
    BeginBackup,
    BeginRestore,
    FinishRestore,
    ReadBackup,
    WriteRestore,
)
from twinhost.unified_memory_reasoning.keeping.backup_replies import (
    BackupDocument,
    BackupPart,
    DamageAcknowledged,
    RestoreBegun,
    RestoreFinished,
    RestoreReceived,
)
from twinhost.unified_memory_reasoning.keeping.provenance_messages import (
    ListQuarantine,
    MemoryBy,
    QuarantineMemory,
    ReleaseMemory,
)
from twinhost.unified_memory_reasoning.keeping.provenance_replies import (
    MemoryQuarantined,
    MemoryReleased,
    MemoryWritten,
    QuarantineList,
)
from twinhost.unified_memory_reasoning.known_errors.error_pattern_messages import (
    AddErrorPattern,
    DeleteErrorPattern,
    DismissPatternProposal,
    GetErrorSolution,
    GetPatternProposals,
    ListErrorPatterns,
    ReportSolutionOutcome,
)
from twinhost.unified_memory_reasoning.known_errors.error_pattern_replies import (
    ErrorPatternAdded,
    ErrorPatternDeleted,
    ErrorPatternPage,
    ErrorSolution,
    OutcomeReported,
    ProposalDismissed,
    ProposalPage,
)
from twinhost.unified_memory_reasoning.memory_health import MemoryHealth
from twinhost.unified_memory_reasoning.memory_model.memory_messages import (
    DeleteMemory,
    GetMemory,
    MemoryStatus,
    QueryMemory,
    ReinforceMemory,
    StoreMemory,
    SyncMemories,
)
from twinhost.unified_memory_reasoning.memory_model.memory_replies import (
    MemoriesFound,
    MemoriesMerged,
    MemoryDeleted,
    MemoryFound,
    MemoryReinforced,
    MemoryStatusDocument,
    MemoryStored,
)
from twinhost.unified_memory_reasoning.messages import DeleteTwin, GetTwin, UpdateTwin
from twinhost.unified_memory_reasoning.other_agents.conflict_actions import ResolveConflict
from twinhost.unified_memory_reasoning.other_agents.coordination_messages import CoordinateMemory
from twinhost.unified_memory_reasoning.other_agents.coordination_replies import ConflictResolved, OtherAgentsAnswer
from twinhost.unified_memory_reasoning.recall.search_messages import SearchMemory
from twinhost.unified_memory_reasoning.recall.search_replies import SearchResults
from twinhost.unified_memory_reasoning.twin_replies import TwinDeleted, TwinFound, TwinUpdated

REPLIES: Replies = {
    Ping: MemoryHealth,
    GetHealth: MemoryHealth,
    HealthCheck: MemoryHealth,
    GetPeers: Peers,
    AnnounceProbes: ProbesAnnounced,
    UpdateTwin: TwinUpdated,
    GetTwin: TwinFound,
    DeleteTwin: TwinDeleted,
    AddInteraction: InteractionAdded,
    GetContext: ContextFound,
    ClearContext: ContextCleared,
    SearchMemory: SearchResults,
    StoreMemory: MemoryStored,
    GetMemory: MemoryFound,
    QueryMemory: MemoriesFound,
    ReinforceMemory: MemoryReinforced,
    DeleteMemory: MemoryDeleted,
    SyncMemories: MemoriesMerged,
    MemoryStatus: MemoryStatusDocument,
    AddErrorPattern: ErrorPatternAdded,
    GetErrorSolution: ErrorSolution,
    ReportSolutionOutcome: OutcomeReported,
    ListErrorPatterns: ErrorPatternPage,
    DeleteErrorPattern: ErrorPatternDeleted,
    GetPatternProposals: ProposalPage,
    DismissPatternProposal: ProposalDismissed,
    ResolveConflict: ConflictResolved,
    CoordinateMemory: OtherAgentsAnswer,
    MemoryBy: MemoryWritten,
    QuarantineMemory: MemoryQuarantined,
    ReleaseMemory: MemoryReleased,
    ListQuarantine: QuarantineList,
    BeginBackup: BackupDocument,
    BackupStatus: BackupDocument,
    ReadBackup: BackupPart,
    BeginRestore: RestoreBegun,
    WriteRestore: RestoreReceived,
    FinishRestore: RestoreFinished,
    AcknowledgeDamage: DamageAcknowledged,
    GetAuditHeads: AuditHeads,
    AcceptAuditLog: AuditLogAccepted,
}
