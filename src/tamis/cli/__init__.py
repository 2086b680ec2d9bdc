"""The command line: verbs, settings, stages, the pipeline."""
