#!/usr/bin/env bash
# Prints the driver and the devices with which the engine offers its GPUs to containers, in a line; nothing without a GPU.
# Standard input is the engine's document: docker info --format '{{json .}}'
set -euo pipefail

exec python3 -c '
import json, sys

engine = json.load(sys.stdin)
devices = {each.get("ID") for each in engine.get("DiscoveredDevices") or () if each.get("Source") == "cdi"}
if "nvidia" in (engine.get("Runtimes") or {}):
    print("nvidia all")
elif "nvidia.com/gpu=all" in devices:
    print("cdi nvidia.com/gpu=all")
'
