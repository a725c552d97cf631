"""Parts of a network configuration for tests that make one of their own."""

import json

from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH

SHIPPED = load_network_config(DEFAULT_PATH, environment={})
SHIPPED_GRANTS = {role: sorted(actions) for role, actions in SHIPPED.grants.items()}
SHIPPED_RECALL = SHIPPED.recall
GRANTS_LINE = f"grants: {json.dumps(SHIPPED_GRANTS)}\n"  # JSON is YAML
RECALL_LINE = "recall: {embeddings: off}\n"  # the model would take time from what is measured
