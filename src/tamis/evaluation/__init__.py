"""Whether safety and usefulness survived: prompts, judges, measures, intervals."""
