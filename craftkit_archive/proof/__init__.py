"""Proofs that are independent of archives: seals, the hash chain of the audit log, signatures, timestamps."""
