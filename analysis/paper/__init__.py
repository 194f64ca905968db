"""Everything that knows one paper: its published numbers, its figures and tables, the checks of its arithmetic."""
