"""The life of a sparse model: build, step, report, finalize, save."""
