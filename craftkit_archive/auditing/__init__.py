"""Auditing: the audit log shown and proved, and the server's access logs bound to it."""
