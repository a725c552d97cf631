#!/usr/bin/env bash
# Prints in one line the driver and the devices by which the engine gives containers its GPUs; nothing without a GPU.
# Standard input is the engine's document: docker info --format '{{json .}}'
set -euo pipefail

exec python3 -c '
import json, sys

engine = json.load(sys.stdin)
devices = {device.get("ID") for device in engine.get("DiscoveredDevices") or () if device.get("Source") == "cdi"}
if "nvidia" in (engine.get("Runtimes") or {}):
    print("nvidia all")
elif "nvidia.com/gpu=all" in devices:
    print("cdi nvidia.com/gpu=all")
'
