"""Rows of a step → gradient of the adapter."""
