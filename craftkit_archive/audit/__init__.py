"""What an archive can show of its past: the audit log, the access logs, and both sealed and signed."""
