"""Repairs: replaces damaged assets and lost catalogs, keeps what was damaged, accepts known losses."""
