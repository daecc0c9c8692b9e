"""Is this a whole PDF, and does it open?"""
