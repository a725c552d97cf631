"""What can break: processes, networks, disks, clocks, keys, files; and that nothing acknowledged is lost by it."""
