"""What the responses of each LLM API say of themselves: usage, failures, their end. No I/O."""
