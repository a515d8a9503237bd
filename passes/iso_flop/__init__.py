"""What a rewrite at equal cost promises and keeps."""
