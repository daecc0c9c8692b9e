"""Disposal: deletes PDFs for good, and leaves tombstones and a certificate."""
