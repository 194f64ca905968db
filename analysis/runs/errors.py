"""What is raised for input that cannot be analysed; a module of its own, so that a command can say it quickly."""


class AnalysisError(Exception):
    """Input that cannot be analysed; the message is one line that names the file, key or metric."""
