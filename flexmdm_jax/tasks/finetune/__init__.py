"""Fine-tuning: an answer to a question, or code in a hole."""
