"""What everything else may use: errors, redaction, processes and environment, out-of-memory handling."""
