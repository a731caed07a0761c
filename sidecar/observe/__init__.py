"""What is and what was: status, drift, history, metrics, events, logs."""
