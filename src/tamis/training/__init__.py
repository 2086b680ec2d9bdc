"""Fine-tuning on what was kept."""
