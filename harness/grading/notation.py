r"""How an answer is written: Unicode, white space, delimiters, percent and numbers, all brought to one LaTeX.

``normal`` is what the verdict may not depend on. It keeps what is said: no unit is dropped and no value rounded.
"""

# ruff: noqa: RUF001  (signs that look like others are what this is about)
import re
import unicodedata
from fractions import Fraction

from harness.grading.units import unit

SIGNS = {
    "−": "-", "﹣": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "≈": r"\approx ", "π": r"\pi ", "θ": r"\theta ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "°": r"^\circ ", "º": r"^\circ ", "。": ".", "\u200b": "", "\u2060": "", "\ufeff": "",
}  # fmt: skip
TRANSLATION = str.maketrans(SIGNS | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)})
SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ"
SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
RAISED = re.compile(f"[{SUPERSCRIPTS}]+")
LOWERED = re.compile(f"[{SUBSCRIPTS}]+")
SAME = {  # commands that math-verify does not know, and what they are
    r"\\(?:textcolor|color) ?\{\w+\}": "",
    r"\\therefore(?![A-Za-z])": "",
    r"\\degree(?![A-Za-z])": r"^\\circ",
    r"\\varnothing(?![A-Za-z])": r"\\emptyset",
    r"\\([lr])brace(?![A-Za-z])": lambda match: r"\{" if match[1] == "l" else r"\}",
    r"\\([lr])angle(?![A-Za-z])": lambda match: "(" if match[1] == "l" else ")",
    r"\{smallmatrix\}": "{pmatrix}",
}
VULGAR = re.compile("[¼-¾⅐-⅞↉]")
ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[A-Za-z]|\\pi\b)|(?=\{))")

STYLES = "text|textbf|textrm|textit|textsf|textnormal|mathrm|mathbf|mathit|mathsf|boldsymbol|mbox|underline"
STYLE = re.compile(rf"\\(?:{STYLES})\s*\{{([^{{}}]*)\}}")
WRAPPED = re.compile(rf"\\(?:{STYLES})\s*\{{(.*)\}}", re.DOTALL)
MARKDOWN = re.compile(r"(\*\*|__|\*|`)(.+)\1", re.DOTALL)
DELIMITER = re.compile(r"(\\\\)|\\[()\[\]]")
SPACE = re.compile(r"(\\\\)|\\[,;:> ]|~|\\(?:qquad|quad|thinspace|displaystyle)(?![A-Za-z])")
GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,:; ]|~|\{,\}|,?\\! ?)\d{3})+(?!\d)", re.ASCII)
SPACED = re.compile(r"([+-]?\d{1,3}(?: \d{3})+)(\.\d+)?", re.ASCII)  # 12 345 is no product
BRACKETED = re.compile(r"(\d{0,50})\.(\d{0,50})\((\d{1,50})\)", re.ASCII)  # 0.1(6), repeating
TIMES = re.compile(r"(?<=\d) ?[xX] ?(?=10 ?\^)")
MIXED = re.compile(r"([+-]?\d+) (\d+)/(\d+)", re.ASCII)  # nor is 3 1/2 one
SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d*)?)[eE]([+-]?\d{1,3})", re.ASCII)
REPEATING = re.compile(r"(?<!\d)(\d{0,50})\.(\d{0,50})\\(?:overline|bar|dot)\s*\{(\d{1,50})\}", re.ASCII)
PERCENT = re.compile(
    r"\s*(?:\\?%|\\(?:text|mathrm)\s*\{\s*(?:\\?%|per ?cent|percentage|pct)\s*\}|\b(?:per ?cent|percentage|pct))\Z",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?:[^\s\d<=>]+ ){1,30}?(?:is|are|equals):? (.+?)(?:\. [^\d$\\]*)?")
HEDGE = re.compile(
    r"\b(?:or|not|cannot|never|no|either|neither|if|unless|when|where|than|wrong|incorrect|false|except)\b|n't\b",
    re.IGNORECASE,
)
# One formula in a sentence, "we get $5$ in the end" or "so $5$ is the answer", but not "the root of $5$".
FORMULA = re.compile(r"([^$\\\d]*)(?:\$\$?([^$]+)\$\$?|\\[(\[](.+?)\\[)\]])([^$\\\d]*)", re.DOTALL)
BEFORE = re.compile(
    r"(?:.*\b)?(?:is|are|be|equals|gives?|gets?|have|has|finds?|obtain|that|thus|so|hence|therefore|answer|:),?:?\s*",
    re.IGNORECASE | re.DOTALL,
)
AFTER = re.compile(r"\s*(?:is (?:the|our|my) (?:final |correct )?(?:answer|solution|result))?\s*(?:\..*)?", re.DOTALL)
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
IN_WORDS = {word: str(value) for value, word in enumerate(NUMBERS.split())}
MAX_SENTENCE = 500  # characters; a longer answer is no sentence around a number


def normal(text: str) -> str:
    r"""``text`` without what surrounds an answer (delimiters, style, spacing, a full stop), numbers as plain digits.

    A percent sign in words becomes ``\%``, a number in words up to twenty its digits, a repeating decimal a fraction.
    """
    text = " ".join(_ascii(text).split())
    before = None
    while text != before:
        before = text
        text = _bare(text)
    if SPACED.fullmatch(text):
        text = text.replace(" ", "")
    text = PERCENT.sub(r"\\%", text) if PERCENT.sub("", text) else text
    text = (BRACKETED if BRACKETED.fullmatch(text) else REPEATING).sub(_fraction, text)
    text = SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text) if SCIENTIFIC.fullmatch(text) else text
    text = TIMES.sub(r" \\times ", text)
    text = MIXED.sub(r"\1\\frac{\2}{\3}", text) if MIXED.fullmatch(text) else text
    return IN_WORDS.get(text.lower(), text)


def words(text: str) -> str:
    r"""``text`` with ``\text{}`` and its relatives replaced by what is in them."""
    return " ".join(STYLE.sub(r"\1", text).split())


def without_sentence(text: str) -> str:
    """``normal`` of the answer in a sentence, "The answer is 5", unless it hedges; else of ``text`` itself."""
    if len(text) > MAX_SENTENCE:
        return normal(text)
    formula = FORMULA.fullmatch(text)
    if formula and BEFORE.fullmatch(formula[1]) and not HEDGE.search(formula[1] + formula[4]):
        after = formula[4].partition(".")[0].strip()
        if AFTER.fullmatch(formula[4]) or unit(after):
            return normal((formula[2] or formula[3]) + (f" {after}" if unit(after) else ""))
    plain = words(normal(text))
    match = SENTENCE.fullmatch(plain)
    return normal(match[1] if match and not HEDGE.search(plain) else text)


def _ascii(text: str) -> str:
    """``text`` with LaTeX for the signs of Unicode."""
    text = re.sub(r"(?<=\d)m(?=[²³]$)", r"\\text{m}", text)  # square metres: the power of a variable is written m^2
    text = RAISED.sub(lambda match: f"^{{{_compatible(match[0])}}}", text)
    text = LOWERED.sub(lambda match: f"_{{{_compatible(match[0])}}}", text)
    text = VULGAR.sub(lambda match: r"\frac{{{}}}{{{}}}".format(*_compatible(match[0]).split("⁄")), text)
    text = ROOT.sub(lambda match: r"\sqrt" + (f"{{{match[1] or match[2]}}}" if match[0] != "√" else ""), text)
    return re.sub(r"\A\s*[–—]", "-", text).translate(TRANSLATION)


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-")


def _bare(text: str) -> str:
    """One layer less around ``text``."""
    text = GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = DELIMITER.sub(lambda match: match[1] or "", text)
    text = SPACE.sub(lambda match: match[1] or " ", text).replace(r"\!", "")
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$", "", text)
    for command, same in SAME.items():
        text = re.sub(command, same, text)
    text = " ".join(text.split()).rstrip("\\").lstrip(" ;").rstrip(" .;,")
    text = re.sub(r"\A(?:=|\\approx(?![A-Za-z]))\s*", "", text)
    for wrapper, inner in ((WRAPPED, 1), (MARKDOWN, 2)):
        match = wrapper.fullmatch(text)
        if match and _balanced(match[inner]):
            text = match[inner]
    if "matrix" not in text and "array" not in text and "cases" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z{}])", r"\\", text)
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _fraction(match: re.Match[str]) -> str:
    whole, first = match[1] or "0", match[2]
    nines = (10 ** len(match[3]) - 1) * 10 ** len(first)
    value = Fraction(int(whole + first), 10 ** len(first)) + Fraction(int(match[3]), nines)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
