"""Instructions: texts that turn a question into chat messages, and a message back into its question.

``prompts/<key>.txt``; any other text file can stand in for one. A text with ``{question}`` is the user's message with
the question in that place; a text without it is a system message, and the user's message is the question alone.

=============  ========================================================================================================
answer_line    The text that the DAPO file carries: the last line is "Answer: ...".
boxed          Reasoning, then the answer in \\boxed{}.
think_answer   What the paper asks of its vision-language model (figure 3), in our own words: <think>reasoning</think>,
               then <answer>\\boxed{$answer in LaTeX$}</answer>.
=============  ========================================================================================================
"""

from dataclasses import dataclass
from pathlib import Path

from harness.config import ConfigError

FOLDER = Path(__file__).with_name("prompts")
SLOT = "{question}"
MEDIA = ("<image>", "<video>", "<audio>")  # verl puts the row's media in the place of these words


@dataclass(frozen=True)
class Prompt:
    """One instruction; ``key`` is its name or its file's."""

    key: str
    text: str

    def messages(self, question: str) -> list[dict[str, str]]:
        """The chat messages that ask ``question``."""
        if SLOT in self.text:
            return [{"role": "user", "content": self.text.replace(SLOT, question)}]
        return [{"role": "system", "content": self.text}, {"role": "user", "content": question}]

    def question(self, content: str) -> str | None:
        """The question inside a user's message that this instruction made; None if it did not make it."""
        before, after = (side.strip() for side in self.text.split(SLOT))
        content = content.strip()
        if len(content) < len(before) + len(after) or not (content.startswith(before) and content.endswith(after)):
            return None
        return content[len(before) : len(content) - len(after)].strip()


def load(name: str) -> Prompt:
    """The prompt of a key, or of a text file; raises ``ConfigError``."""
    path = FOLDER / f"{name}.txt"
    if not path.is_file():
        path = Path(name).expanduser()
    if not path.is_file():
        keys = ", ".join(sorted(file.stem for file in FOLDER.glob("*.txt")))
        raise ConfigError(f"prompt={name}: neither a text file nor one of {keys}")
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"prompt={name}: {path} is not UTF-8 text") from None
    if not text or text.count(SLOT) > 1 or any(word in text for word in MEDIA):
        raise ConfigError(f"prompt={name}: {path} must have some text, {SLOT} at most once, and none of {MEDIA}")
    return Prompt(path.stem, text)
