"""The use cases, and the pipeline that turns reports into answers."""
