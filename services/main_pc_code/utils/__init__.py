"""See main_pc_code."""
