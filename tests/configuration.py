"""Parts of a network configuration for tests that make one of their own."""

import json

from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH


def item_of(grant: str) -> str | dict[str, str]:
    name, limited, limit = grant.partition(":")
    return {name: limit} if limited else grant


SHIPPED = load_network_config(DEFAULT_PATH, environment={})
SHIPPED_GRANTS = {role: sorted(actions) for role, actions in SHIPPED.grants.items()}
_ITEMS = {role: [item_of(grant) for grant in grants] for role, grants in SHIPPED_GRANTS.items()}
GRANTS_LINE = f"grants: {json.dumps(_ITEMS)}\n"  # JSON is YAML
BUDGETS = json.dumps({"roles": SHIPPED.limits.budgets.roles})
RECALL_LINE = "recall: {embeddings: off}\n"  # the model would take time from what is measured
