"""The memory and the system as tools of an MCP client: `twinhost mcp`, with the extra `mcp`."""
