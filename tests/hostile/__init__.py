"""Malicious and broken uploads, each with what stops it."""
