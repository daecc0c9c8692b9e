"""What an archive can prove about its past: the audit log, the access logs, and the signed seal."""
