"""The examples in the docstrings of the typed clients, which a test runs against both agents.

`system` and `memory` are clients of an operator. An example is that of the blocking client; write_clients.py makes
that for asyncio of it.
"""

_EXAMPLES = {
    "SystemDigitalTwin": {
        "": """
>>> with twinhost.connect("SystemDigitalTwin") as system:
...     system.ping().message
'pong'
""",
        "acknowledge_errors": """
>>> system.acknowledge_errors(error_id="valve-3").acknowledged_by
'operator'
""",
        "announce_probes": """
>>> system.announce_probes(1).window_s
15.0
""",
        "commit_lease": """
>>> lease = system.reserve_ram(1, ttl_s=60)
>>> system.commit_lease(lease.lease_id, ttl_s=600).state
'committed'
""",
        "confirm_key": """
>>> system.confirm_key().revoked
[]
""",
        "discover": """
>>> [agent.agent_name for agent in system.discover().agents]
['SystemDigitalTwin', 'UnifiedMemoryReasoningAgent', 'gardener']
""",
        "enrol": """
>>> system.enrol("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7").roles
Traceback (most recent call last):
    ...
twinhost.secure_zmq.errors.NotGranted: enrol takes the one-time key of an invitation; to make one, ...
""",
        "get_agent_endpoint": """
>>> system.get_agent_endpoint("SystemDigitalTwin").host
'127.0.0.1'
""",
        "get_agent_info": """
>>> system.get_agent_info("gardener").agent_info.status
'HEALTHY'
""",
        "get_all_agents": """
>>> system.get_all_agents().agents["gardener"].status
'HEALTHY'
""",
        "get_audit": """
>>> page = system.get_audit(limit=100)
>>> page.anchor.seq
1
""",
        "iter_audit": """
>>> lines = list(system.iter_audit(after_seq=2))
""",
        "get_error_counts": """
>>> list(system.get_error_counts(agent="gardener", acknowledged=True).by_type)
['timeout']
""",
        "get_errors": """
>>> system.get_errors(text="valve").errors[0].error_id
'valve-3'
""",
        "iter_errors": """
>>> {error.error_id for error in system.iter_errors(agent="gardener")}
{'valve-3'}
""",
        "get_events": """
>>> system.get_events(type="watered", limit=1).events[0].data
{'litres': 4}
""",
        "iter_events": """
>>> numbers = [event.seq for event in system.iter_events(type="watered")]
""",
        "get_forecast": """
>>> {each.resource for each in system.get_forecast(host="mainpc", resource="ram").forecasts}
{'ram'}
""",
        "get_history": """
>>> len(system.get_history(host="mainpc").history.timestamps) > 0
True
""",
        "get_metrics": """
>>> system.get_metrics().metrics.hosts["pc2"].stale
False
>>> series = system.get_metrics(metrics_type="history").metrics.hosts["pc2"]
""",
        "get_ok_agents": """
>>> system.get_ok_agents().agents
['SystemDigitalTwin', 'UnifiedMemoryReasoningAgent', 'gardener']
""",
        "get_peers": """
>>> system.get_peers().revoked
[]
""",
        "get_registered_agents": """
>>> [agent.name for agent in system.get_registered_agents().agents]
['SystemDigitalTwin', 'UnifiedMemoryReasoningAgent', 'gardener']
""",
        "get_trust": """
>>> system.get_trust().revoked
[]
""",
        "health": """
>>> system.health().ready
True
""",
        "health_check": """
>>> system.health_check().agent
'SystemDigitalTwin'
""",
        "heartbeat": """
>>> system.heartbeat("gardener", status="HEALTHY").status
'success'
""",
        "list_leases": """
>>> {lease.holder for lease in system.list_leases().leases}
{'operator'}
""",
        "ping": """
>>> system.ping().message
'pong'
""",
        "propose_key": """
>>> system.propose_key("rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7").status
'success'
""",
        "publish_event": """
>>> event = {"event_id": "bed-2", "event_type": "watered", "source_agent": "gardener", "data": {"litres": 4}}
>>> system.publish_event(event).event_id
'bed-2'
""",
        "register_agent": """
>>> system.register_agent(agent_name="gardener", status="HEALTHY").message
'agent gardener registered'
""",
        "release_lease": """
>>> lease = system.reserve_ram(1, host="mainpc", ttl_s=60)
>>> system.release_lease(lease.lease_id).message
'1 MB of RAM on mainpc are free again'
""",
        "report_error": """
>>> error = {"error_id": "valve-3", "agent_id": "gardener", "error_type": "timeout", "severity": "warning"}
>>> system.report_error({**error, "message": "the valve of bed 2 does not answer"}).error_id
'valve-3'
""",
        "report_metrics": """
>>> system.report_metrics(2_048, ram_total_mb=8_192).host
Traceback (most recent call last):
    ...
twinhost.secure_zmq.errors.NotGranted: an operator's key can't report the metrics of a host; ...
""",
        "reserve_ram": """
>>> lease = system.reserve_ram(1, host="mainpc", ttl_s=60)
>>> lease.amount_mb, lease.state
(1.0, 'reserved')
""",
        "reserve_vram": """
>>> lease = system.reserve_vram(1, host="mainpc", ttl_s=60)
>>> lease.gpu.index
0
""",
        "retire_keys": """
>>> system.retire_keys().status
'success'
""",
        "simulate_load": """
>>> system.simulate_load("ram", value_mb=64).recommendation
'proceed'
""",
        "unregister": """
>>> system.register_agent(agent_name="visitor", status="HEALTHY").status
'success'
>>> system.unregister("visitor").message
'agent visitor unregistered'
""",
        "update_vram_metrics": """
>>> models = {"tiny": {"vram_usage_mb": 500, "device": "cuda:0"}}
>>> total = {"total_vram_mb": 8_000, "total_vram_used_mb": 500}
>>> payload = {"agent_name": "gardener", "loaded_models": models, **total}
>>> system.update_vram_metrics(payload, host="mainpc").devices
{'cuda:0': 500.0}
""",
    },
    "UnifiedMemoryReasoningAgent": {
        "": """
>>> with twinhost.connect("UnifiedMemoryReasoningAgent") as memory:
...     memory.store("The roses stand by the gate.", id="roses").memory_id
...     memory.search("roses", limit=1).results[0].content
'roses'
'The roses stand by the gate.'
""",
        "accept_audit_log": """
>>> memory.accept_audit_log().accepted
[]
""",
        "acknowledge_damage": """
>>> memory.acknowledge_damage().acknowledged
[]
""",
        "add_error_pattern": """
>>> fault = "valve .* is silent"
>>> pattern = memory.add_error_pattern("timeout", pattern=fault, solution="restart the pump")
>>> pattern.reads_bytes > 0
True
""",
        "add_interaction": """
>>> turn = memory.add_interaction("garden", interaction_type="user_query", content="Which roses are dry?")
>>> 0 <= turn.importance <= 1
True
""",
        "announce_probes": """
>>> memory.announce_probes(1).window_s
15.0
""",
        "backup_status": """
>>> backup = memory.begin_backup()
>>> while backup.state == "copying":
...     backup = memory.backup_status(backup.backup_id)
>>> backup.rows["memories"] > 0
True
""",
        "begin_backup": """
>>> backup = memory.begin_backup()
>>> while backup.state == "copying":
...     backup = memory.backup_status(backup.backup_id)
>>> backup.state
'ready'
""",
        "begin_restore": """
>>> memory.begin_restore().chunk_bytes
1048576
""",
        "clear_context": """
>>> memory.clear_context("a finished talk").cleared
0
""",
        "coordinate": """
>>> memory.coordinate("SystemDigitalTwin", operation="get_ok_agents", data={})["count"]
3
""",
        "delete_error_pattern": """
>>> pattern = memory.add_error_pattern("leak", pattern="water under bed .*")
>>> memory.delete_error_pattern(pattern.pattern_id).status
'ok'
""",
        "delete": """
>>> memory.store("A note to delete.", id="note").new
True
>>> memory.delete(memory_id="note").memory_id
'note'
""",
        "delete_twin": """
>>> revision = memory.update_twin({"name": "Rosa"}, user_id="guest").revision
>>> memory.delete_twin(user_id="guest", if_revision=revision).user_id
'guest'
""",
        "dismiss_pattern_proposal": """
>>> proposal = memory.get_pattern_proposals(limit=1).proposals[0]
>>> memory.dismiss_pattern_proposal(proposal.proposal_id).proposal_id == proposal.proposal_id
True
""",
        "finish_restore": """
>>> restore = memory.begin_restore()
>>> received = memory.write_restore(restore.restore_id, offset=0, data=b"no backup").received
>>> memory.finish_restore(restore.restore_id, size=received, sha256="0" * 64).state
'checking'
""",
        "get_audit_heads": """
>>> memory.get_audit_heads().gaps
[]
""",
        "get_context": """
>>> context = memory.get_context("garden", max_tokens=500).context
""",
        "get_error_solution": """
>>> memory.get_error_solution("valve 3 is silent").solution
'restart the pump'
""",
        "get": """
>>> memory.get(memory_id="roses").memory.content
'The roses stand by the gate.'
""",
        "get_pattern_proposals": """
>>> memory.get_pattern_proposals(limit=1).proposals[0].seen >= 3
True
""",
        "iter_pattern_proposals": """
>>> for proposal in memory.iter_pattern_proposals():
...     assert proposal.seen >= 3
""",
        "get_peers": """
>>> memory.get_peers().revoked
[]
""",
        "get_twin": """
>>> memory.get_twin(user_id="rosa").twin["name"]
'Rosa'
""",
        "get_twin_history": """
>>> memory.get_twin_history(user_id="rosa", limit=1).changes[0].change
'update'
""",
        "iter_twin_history": """
>>> revisions = [change.revision for change in memory.iter_twin_history(user_id="rosa")]
""",
        "health": """
>>> memory.health().ready
True
""",
        "health_check": """
>>> memory.health_check().agent
'UnifiedMemoryReasoningAgent'
""",
        "list_error_patterns": """
>>> len(memory.list_error_patterns(limit=1).patterns)
1
""",
        "iter_error_patterns": """
>>> "restart the pump" in {pattern.solution for pattern in memory.iter_error_patterns()}
True
""",
        "list_quarantine": """
>>> quarantined = {each.name for each in memory.list_quarantine().quarantined}
""",
        "memory_audit": """
>>> memory.memory_audit(limit=10).contradictory
[]
""",
        "memory_by": """
>>> memory.memory_by("operator", kind="twins", limit=1).written.twins.entries[0].user_id
'rosa'
""",
        "iter_memory_by": """
>>> ids = [row.id for row in memory.iter_memory_by("operator", kind="memories")]
>>> "roses" in ids
True
""",
        "memory_history": """
>>> [each.content for each in memory.memory_history(key="height of the hedge").memories]
['The hedge is 2 m high.']
""",
        "iter_memory_history": """
>>> [each.content for each in memory.iter_memory_history(key="height of the hedge")]
['The hedge is 2 m high.']
""",
        "memory_status": """
>>> memory.memory_status().total_memories > 0
True
""",
        "patch_twin": """
>>> memory.patch_twin({"likes": ["roses"]}, user_id="rosa").user_id
'rosa'
""",
        "ping": """
>>> memory.ping().agent
'UnifiedMemoryReasoningAgent'
""",
        "quarantine": """
>>> memory.quarantine("a stolen key", reason="writes nonsense").name
'a stolen key'
""",
        "query": """
>>> memory.query(keywords=["garden"], limit=1).memories[0].content
'The hedge is 2 m high.'
""",
        "iter_query": """
>>> [each.content for each in memory.iter_query(keywords=["garden"])]
['The hedge is 2 m high.']
""",
        "read_backup": """
>>> backup = memory.begin_backup()
>>> while backup.state == "copying":
...     backup = memory.backup_status(backup.backup_id)
>>> part = memory.read_backup(backup.backup_id, offset=0)
>>> part.size == backup.size
True
""",
        "reinforce": """
>>> memory.reinforce(memory_id="roses").forgotten
False
""",
        "release": """
>>> quarantined = memory.quarantine("a cleaned key")
>>> memory.release("a cleaned key").name
'a cleaned key'
""",
        "report_solution_outcome": """
>>> pattern = memory.add_error_pattern("drought", pattern="bed .* is dry", solution="water it")
>>> memory.report_solution_outcome(pattern.pattern_id, success=True).failures
0
""",
        "resolve_conflict": """
>>> memory.resolve_conflict("prune the hedge", priority="high").op_id
'prune the hedge'
""",
        "search": """
>>> memory.search("where are the roses", limit=5).results[0].content
'The roses stand by the gate.'
""",
        "store": """
>>> fact = "The hedge is 2 m high."
>>> memory.store(fact, id="hedge", key="height of the hedge", keywords=["garden"]).memory_id
'hedge'
""",
        "sync": """
>>> note = {"id": "tulips", "content": "The tulips are red.", "last_accessed": "2026-11-27T08:00:00+00:00"}
>>> memory.sync([note]).refused_ids
[]
""",
        "update_twin": """
>>> memory.update_twin({"name": "Rosa", "likes": ["tulips"]}, user_id="rosa").user_id
'rosa'
""",
        "write_restore": """
>>> restore = memory.begin_restore()
>>> memory.write_restore(restore.restore_id, offset=0, data=b"the first part of a backup").received
26
""",
    },
}
EXAMPLES = {agent: {name: text.strip() for name, text in texts.items()} for agent, texts in _EXAMPLES.items()}
