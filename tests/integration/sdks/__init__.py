"""Users code of LLM APIs, in Python and in Node, against engines that do what a test asks for."""
