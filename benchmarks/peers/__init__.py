"""The programs that herd-mcp is compared with. Each is run as a process of its own."""
