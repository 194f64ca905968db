r"""The unit of an answer: ``5\text{ cm}^2`` is the number 5 and an area.

An answer without a unit counts as one with the unit that was asked for. Only two units that are both known here are
compared: 500 cm is 5 m, 5 m is not 5 cm and 5 apples may be 5 fruits.
"""

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit of measure: powers of base units, sorted, and how many of these it is."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction


KNOWN = {  # base unit: names and how many base units each is
    "metre": "mm .001 millimeter .001 cm .01 centimeter .01 dm .1 m 1 meter 1 metre 1 km 1000 kilometer 1000 "
    "in .0254 inch .0254 ft .3048 foot .3048 feet .3048 yd .9144 yard .9144 mi 1609.344 mile 1609.344",
    "gram": "mg .001 milligram .001 g 1 gram 1 kg 1000 kilogram 1000 oz 28.349523125 ounce 28.349523125 "
    "lb 453.59237 lbs 453.59237",
    "second": "ms .001 s 1 sec 1 second 1 min 60 minute 60 h 3600 hr 3600 hour 3600 day 86400 week 604800",
    "year": "month 1/12 year 1 yr 1",
    "dollar": "dollar 1 $ 1 cent .01",
    "euro": "euro 1 € 1",
    "sterling": "£ 1",
    "degree": "degree 1 deg 1 ° 1",
    "radian": "radian 1 rad 1",
    "celsius": "°C 1",
    "fahrenheit": "°F 1",
    "newton": "N 1 newton 1",
    "joule": "J 1 joule 1 kJ 1000",
    "watt": "W 1 watt 1 kW 1000",
    "volt": "V 1 volt 1",
    "ampere": "A 1 ampere 1",
    "ohm": "ohm 1",
    "hertz": "Hz 1 hertz 1",
    "kelvin": "K 1 kelvin 1",
    "mole": "mol 1 mole 1",
    "morning": "am 1",
    "afternoon": "pm 1",
}
VOLUMES = {"L": "1/1000", "liter": "1/1000", "litre": "1/1000", "mL": "1/1000000", "ml": "1/1000000", "cc": "1/1000000"}
COUNTED = (  # plain words that may follow a number and are no unit of measure; singular
    "apple banana ball book boy card child children coin cookie cow customer digit edge egg employee gallon "
    "game girl group guest hectare acre item integer kid line marble man men member mouse orange page pair people "
    "pen pencil penny person player point pound problem rupee sheep side song step stone student sweet teacher team "
    "ticket time tile toy tree triangle trip unit vertex vertices vote way woman women word yuan zero root "
    "solution permutation combination possibility path number prime factor divisor"
)
TEMPERATURES = {"celsius", "fahrenheit"}
NO_UNIT = re.compile(  # words that change what is said: 5 or more, 5 million
    r"\b(?:or|and|not|no|more|less|fewer|than|least|most|if|for|when|otherwise|is|are|to|mod|choose|over|times|plus"
    r"|minus|remainder|dozens?|tens?|hundreds?|thousands?|millions?|billions?|trillions?|half|halves|quarters?|thirds?"
    r"|\w+ths|percent|pi|base|each|squared|cubed|factorial)\b",
    re.IGNORECASE,
)
POWER = r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
TEXT = (
    r"\\(?:text|textrm|textnormal|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{(?:[^{}]|\{[^{}]*\})*\}"
    + POWER
)
IN_TEXT = re.compile(rf"(.*?[^\s/])\s*((?:\s*(?:/|\\cdot)?\s*{TEXT})+)", re.DOTALL)
DEGREES = re.compile(r"(.*?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\(?:text|mathrm)\s*\{\s*)?([CF]?)\s*\}?", re.DOTALL)
PLAIN = re.compile(
    rf"(.*?[\d}})])( ?)((?:(?:square|cubic|sq|cu)\.? )?[A-Za-z]+{POWER}(?: ?(?:/|per) ?[A-Za-z]+{POWER})?)"
)
CURRENCY = re.compile(r"([+-]?)\s*(\\?\$|€|£)\s*(.*)|(.*\d)\s*(\\?\$|€|£)", re.DOTALL)
ORDINAL = re.compile(r"(\d+)\s*(?:\^\s*\{?\s*)?(?:\\(?:text|mathrm)\s*\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}")


def split(text: str) -> tuple[str, Unit | None]:
    """``text`` without its unit, and the unit if it is one that is known here."""
    text, currency = _currency(text)
    ordinal = ORDINAL.fullmatch(text)
    if ordinal:
        return ordinal[1], None
    degrees = DEGREES.fullmatch(text)
    if degrees and re.search(r"[\d})a-z]$", degrees[1]) and not re.search(r"\\circ|\\(?:sin|cos|tan)", degrees[1]):
        return degrees[1], unit(f"°{degrees[2]}")
    styled = IN_TEXT.fullmatch(text)
    if styled:
        name = " ".join(re.sub(r"\\[a-z]+\s*\{(.*?)\}(?=$|\s|/|\^|\\)|\\cdot", r"\1 ", styled[2]).split())
        if _is_unit(name, styled[1]):
            return styled[1], unit(name)
    plain = PLAIN.fullmatch(text)
    if plain and _is_word(plain[3], plain[1], glued=not plain[2]):
        return plain[1], unit(plain[3])
    return text, currency


def unit(name: str) -> Unit | None:
    """The unit of measure with this name, such as ``km/h``, ``square metres`` or ``ft^3``; None if it is unknown."""
    total: dict[str, int] = {}
    factor = Fraction(1)
    over = 1
    for part in re.split(r"(/|\bper\b)", name.replace(".", "")):
        if part in ("/", "per"):
            over = -1
            continue
        found = _simple(part.strip())
        if found is None:
            return None
        for base, power in found.dimension:
            total[base] = total.get(base, 0) + over * power
        factor *= found.factor**over
    return Unit(tuple(sorted((base, power) for base, power in total.items() if power)), factor)


def comparable(left: Unit, right: Unit) -> bool:
    """Whether one can be converted into the other; the degree sign alone may be a temperature."""
    bases = {left.dimension[:1], right.dimension[:1]}
    names = {base for dimension in bases for base, _ in dimension}
    return left.dimension == right.dimension or ("degree" in names and bool(names & TEMPERATURES))


def _simple(name: str) -> Unit | None:
    match = re.fullmatch(r"(?:(square|sq|cubic|cu) )?([A-Za-z°$€£]+)\s*(?:\^\s*\{?\s*([1-3])\s*\}?)?", name)
    if not match:
        return None
    power = int(match[3] or 1) * {"s": 2, "c": 3}.get((match[1] or " ")[0], 1)
    word = match[2]
    if word in ("mph", "kph", "kmph"):
        return unit("mi/h" if word == "mph" else "km/h")
    for spelling in (word, word.lower() if len(word) > 2 else word, _singular(word.lower())):
        if spelling in VOLUMES:
            return Unit((("metre", 3 * power),), Fraction(VOLUMES[spelling]) ** power)
        if spelling in _BASES:
            base, factor = _BASES[spelling]
            return Unit(((base, power),), factor**power)
    return None


def _singular(word: str) -> str:
    if word.endswith(("ches", "shes", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _is_word(text: str, value: str, glued: bool) -> bool:
    """Whether plain words are a unit. One letter is a variable (5m), or a unit if it stands off a number (5 m)."""
    found = unit(text)
    if re.fullmatch(r"[A-Za-z](?![A-Za-z]).*", text):
        return found is not None and not glued and re.fullmatch(r"[+-]?[\d.,]+", value) is not None
    if glued:
        return found is not None
    counted = re.sub(r"^(?:square|cubic|sq|cu)\.? ", "", text.lower())
    return found is not None or bool({counted, _singular(counted)} & _COUNTED)


def _is_unit(name: str, value: str) -> bool:
    if NO_UNIT.search(name) or name.startswith("-") or not re.search(r"[A-Za-z]", name) or value.endswith(("^", "_")):
        return False
    if unit(name):
        return bool(re.search(r"[\w})]$", value))
    return len(name) > 1 and bool(re.search(r"(?:\d|\}|\)|\\pi)$", value))


def _currency(text: str) -> tuple[str, Unit | None]:
    match = CURRENCY.fullmatch(text)
    if not match:
        return text, None
    sign, before, value, other, after = match.groups()
    return (f"{sign}{value}" if before else other), unit((before or after).strip("\\"))


def _table() -> dict[str, tuple[str, Fraction]]:
    table: dict[str, tuple[str, Fraction]] = {}
    for base, text in KNOWN.items():
        entries = text.split()
        table |= {name: (base, Fraction(factor)) for name, factor in zip(entries[::2], entries[1::2], strict=True)}
    return table


_BASES = _table()
_COUNTED = set(COUNTED.split())
