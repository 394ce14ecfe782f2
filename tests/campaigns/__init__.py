"""Campaigns: one fault at every place where it can happen, over a running server."""
