"""What the command line's words do: models, policies and saved reports, looked at."""
