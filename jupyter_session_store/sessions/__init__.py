"""What happens to a session."""
