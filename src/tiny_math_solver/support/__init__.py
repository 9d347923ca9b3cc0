"""Helpers that every layer may use: errors, files, redaction, environment variables, out-of-memory handling."""
