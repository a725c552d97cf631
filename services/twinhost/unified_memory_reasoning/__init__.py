"""UnifiedMemoryReasoningAgent, on pc2: it remembers for the system."""

from typing import Final

SUCCESS: Final = "ok"  # the word in `status` that this agent's clients test for
