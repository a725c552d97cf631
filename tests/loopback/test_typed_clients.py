"""x"""
from typing import Any
from tests.waiting import PATIENCE_S, wait_until

def seed(system: Any, memory: Any) -> None:
    system.register_agent(agent_name="gardener", status="HEALTHY")
    system.report_error({"error_id": "valve-3", "agent_id": "gardener", "error_type": "timeout", "severity": "warning", "message": "the valve of bed 2 is silent"})
    system.publish_event({"event_id": "bed-2", "event_type": "watered", "source_agent": "gardener", "data": {"litres": 4}})
    memory.store("The roses stand by the gate.", id="roses")
    memory.store("The hedge is 2 m high.", id="hedge", key="height of the hedge", keywords=["garden"])
    memory.update_twin({"name": "Rosa"}, user_id="rosa")
    for n in range(6):
        memory.get_error_solution(f"pump {n} lost its prime")
        memory.get_error_solution(f"gate {n} stands open all night")
        memory.get_error_solution(f"sensor {n} of the greenhouse is wet")
    system.update_vram_metrics({"agent_name": "gardener", "loaded_models": {"tiny": {"vram_usage_mb": 500, "device": "cuda:0"}}, "total_vram_mb": 8000, "total_vram_used_mb": 500}, host="mainpc")
    wait_until(lambda: not any(each.stale for each in system.get_metrics().metrics.hosts.values()), PATIENCE_S, "the hosts are measured")
