"""The report: its numbers, its sections, and the page that shows them."""
