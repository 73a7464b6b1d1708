"""The keys of the compliance log's sealed parts: a file that forgets, and what wraps its keys."""
