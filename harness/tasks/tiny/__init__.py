"""The laptop's task: sums in words of one token each, a base model of 94,720 parameters, and their grader."""

from harness.tasks.tiny.task import grade

__all__ = ["grade"]
