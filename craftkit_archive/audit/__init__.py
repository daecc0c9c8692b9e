"""The audit log: what was done to an archive, by whom and when, in lines that cannot be changed unseen."""
