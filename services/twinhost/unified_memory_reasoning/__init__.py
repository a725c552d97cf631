"""UnifiedMemoryReasoningAgent, on pc2: it remembers for the system."""
