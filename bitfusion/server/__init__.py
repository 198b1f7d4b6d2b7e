"""The server: accepts connections, reads hellos, admits leases and hands sockets to workers. Never touches payload."""
