"""The laws that craftkit-archive keeps, each shown on real files, a real server and real processes."""
