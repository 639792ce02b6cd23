"""Units of measurement: what stands behind a number (or before it, for a currency), as a factor and its dimension."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from aha.rewards.answers.errors import Unreadable


class Unit(NamedTuple):
    """A factor to the base units, and their powers: km/h is (5/18, ((m, 1), (s, -1)))."""

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]


_UNITS_TABLE = """
m: mm 1/1000, millimeter 1/1000, millimetre 1/1000, cm 1/100, centimeter 1/100, centimetre 1/100, dm 1/10,
   decimeter 1/10, nm 1/1000000000, μm 1/1000000, m 1, meter 1, metre 1, km 1000, kilometer 1000, kilometre 1000, in 0.0254, inch 0.0254,
   inches 0.0254, ft 0.3048, foot 0.3048, feet 0.3048, yd 0.9144, yard 0.9144, mi 1609.344, mile 1609.344
g: mg 1/1000, milligram 1/1000, g 1, gram 1, kg 1000, kilogram 1000, t 1000000, ton 1000000, tonne 1000000,
   lb 453.59237, lbs 453.59237, pound 453.59237, oz 28.349523125, ounce 28.349523125
s: ms 1/1000, millisecond 1/1000, s 1, sec 1, second 1, min 60, minute 60, h 3600, hr 3600, hour 3600, day 86400,
   week 604800
month: month 1, year 12, yr 12
dollar: dollar 1, usd 1, buck 1, cent 1/100
euro: euro 1, eur 1
rupee: rupee 1, rs 1, inr 1
gbp: gbp 1
deg: deg 1, degree 1, ° 1
rad: rad 1, radian 1
K: kelvin 1, k 1
celsius: celsius 1
fahrenheit: fahrenheit 1
: hundred 100, thousand 1000, million 1000000, billion 1000000000, trillion 1000000000000, dozen 12, percent 1/100
"""
_UNITS: dict[str, Unit] = {}
for _line in _UNITS_TABLE.replace("\n   ", " ").strip().splitlines():
    _base, _, _entries = _line.partition(":")
    for _entry in _entries.split(","):
        _unit, _factor = _entry.split()
        _UNITS[_unit] = Unit(Fraction(_factor), ((_base, 1),) if _base else ())
_UNITS |= {name: Unit(Fraction(1, 1000), (("m", 3),)) for name in ("l", "liter", "litre")}
_UNITS |= {name: Unit(Fraction(1, 10**6), (("m", 3),)) for name in ("ml", "milliliter", "millilitre", "cc")}
_UNITS |= {"mph": Unit(Fraction("0.44704"), (("m", 1), ("s", -1)))}
_UNITS |= {name: Unit(Fraction(5, 18), (("m", 1), ("s", -1))) for name in ("kph", "kmph", "kmh")}

_DERIVED = {
    "N newton": {"g": 1, "m": 1, "s": -2}, "J joule": {"g": 1, "m": 2, "s": -2}, "W watt": {"g": 1, "m": 2, "s": -3},
    "Pa pascal": {"g": 1, "m": -1, "s": -2}, "Hz hertz": {"s": -1}, "C coulomb": {"A": 1, "s": 1}, "A amp": {"A": 1},
    "V volt": {"g": 1, "m": 2, "s": -3, "A": -1}, "Ω ohm": {"g": 1, "m": 2, "s": -3, "A": -2}, "mol mole": {"mol": 1},
}  # fmt: skip
_PREFIXES: dict[str, int | Fraction] = {" ": 1, "k kilo": 1000, "M mega": 10**6, "G giga": 10**9, "m milli": Fraction(1, 1000),
             "μ micro": Fraction(1, 10**6), "n nano": Fraction(1, 10**9), "c centi": Fraction(1, 100)}  # fmt: skip
_SI = {
    prefix + name: Unit(Fraction(factor) * 1000 ** powers.get("g", 0), tuple(sorted(powers.items())))
    for names, powers in _DERIVED.items()
    for prefixes, factor in _PREFIXES.items()
    for prefix, name in zip(prefixes.split(" "), names.split(" "), strict=True)
}
_SI |= {name: Unit(factor * 3600 * 1000, _SI["J"].dimension) for name, factor in
        (("Wh", Fraction(1)), ("kWh", Fraction(10**3)), ("MWh", Fraction(10**6)))}  # fmt: skip
"""Units that are only read in text, or where a quantity is expected: `2 N` is a product otherwise."""

ANGLES = {_UNITS["degree"]: "deg", _UNITS["radian"]: "rad"}
_LETTER_UNIT = re.compile(r"(?<=[\d})])(?:cm|mm|km|kg|mg|ml|ft|mph|kph|lbs?|hrs?|min|sec)(?:\^\{?\d\}?)?$")
_WORD_UNIT = re.compile(
    r"(?<=[\d})])\s+([A-Za-z]{2,}[A-Za-z /^{}\d.]*|(?:m|g|s|h|L|l)(?:\^\{?\d\}?)?(?:/[a-z]+(?:\^\{?\d\}?)?)?)$"
)
_NOT_UNITS = frozenset([
    "factorial", "times", "plus", "minus", "halves", "thirds", "fourths", "fifths", "sixths", "eighths", "tenths",
    "or", "and", "not", "if", "when", "where", "is", "for", "but", "no", "than", "to", "nor", "either", "maybe",
])  # fmt: skip


_OHMS = re.compile(r"(?<=[\d})])\s*([kMmμ]?Ω)$")
_QUANTITY = re.compile(r"(?<=[\d})])\s*([A-Za-zμΩ][A-Za-zμΩ /^{}\d.*-]*)$")


def split_unit(text: str, letters_are_units: bool, is_quantity: bool = False) -> tuple[str, str]:
    """A formula and the unit behind it, or the currency before it.

    Only text (`\\text{…}`, or words) is a unit, and letters where a quantity is expected.
    """
    currency = re.match(r"([+-]?)\s*\\text\{(dollars|euros|gbp|yen|rupees|usd|eur|rs)\.?\s*\}\s*", text, re.IGNORECASE)
    if currency:
        number, multiple = split_unit(text[currency.end() :], letters_are_units)
        return currency[1] + number, f"{multiple} {currency[2]}"
    start = text.find(r"\text{")
    if start > 0:
        tail = text[start:]
        only_units = not re.search("[A-Za-z]", re.sub(r"\\text\{[^{}]*\}", "", tail))
        return (text[:start].strip(), tail) if only_units else (text, "")
    match = _WORD_UNIT.search(text)
    if match is not None and not _is_unit_word(match[1]):
        match = None
    if match is None and letters_are_units:
        match = _LETTER_UNIT.search(text)
    match = match or _OHMS.search(text)
    if match is None and is_quantity:
        match = _QUANTITY.search(text)
    if match is not None and not re.search(r"\\[A-Za-z]*\s*$", text[: match.start()]):
        return text[: match.start()].strip(), match[0]
    return text, ""


_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:\\text\{\s*([A-Za-z]+)\s*(and)?\s*\}|([A-Za-z]{2,}))(?:\s*(∧)\s*(?=\d))?")


def read_parts(text: str) -> tuple[Fraction, Unit] | None:
    """`1 h 30 min`, `5 ft 6 in`: numbers with smaller and smaller units of one kind. Joined by "and", of time and money only.

    >>> read_parts(r"1\\text{ h }30\\text{ min}")
    (Fraction(5400, 1), Unit(factor=Fraction(1, 1), dimension=(('s', 1),)))
    """
    units: list[Unit] = []
    total, at = Fraction(0), 0
    while match := _PART.match(text, at):
        word = match[2] or match[4]
        unit = _SI.get(word) or _UNITS.get(word.casefold()) or _UNITS.get(word.casefold().removesuffix("s"))
        if unit is None or not unit.dimension or (units and unit.dimension != units[0].dimension):
            return None
        if (match[3] or match[5]) and unit.dimension not in (_UNITS["s"].dimension, _UNITS["dollar"].dimension):
            return None
        units.append(unit)
        total += Fraction(match[1]) * unit.factor
        at = match.end()
    factors = [unit.factor for unit in units]
    if len(units) < 2 or text[at:].strip() or factors != sorted(set(factors), reverse=True):
        return None
    return total, Unit(Fraction(1), units[0].dimension)


_MULTIPLE = re.compile(r"\s*(?:\\text\{)?\s*(hundred|thousand|million|billion|trillion|dozen)s?(?![a-z])")


def split_multiple(unit: str) -> tuple[Fraction, str]:
    """How many the words behind a number count, which is part of the number, and the unit that is left.

    >>> split_multiple(r"\\text{ million dollars}")
    (Fraction(1000000, 1), ' dollars')
    """
    factor = Fraction(1)
    while match := _MULTIPLE.match(unit):
        factor *= _UNITS[match[1]].factor
        unit = unit[match.end() :].replace("}", "", 1) if r"\text{" in match[0] else unit[match.end() :]
    return factor, unit if unit.strip() else ""


def _is_unit_word(text: str) -> bool:
    """`12 cm`, `12 apples`, but not the product `2 ab`."""
    words = re.findall("[A-Za-z]+", text)
    return all(len(word) >= 4 or word in _UNITS or word.removesuffix("s") in _UNITS for word in words)


_ADJECTIVES = re.compile(r"(?<=\w)\s+(?:long|wide|tall|high|deep|old|away|apart)\s*$")
_UNIT_TOKEN = re.compile(r"[A-Za-z°μΩ]+|\^\s*\{?\s*-?\d+|/")


def read_unit(text: str) -> Unit:
    """The unit that words name; unknown words (apples) are units of their own."""
    text = _unwrapped_unit(text)
    text = _ADJECTIVES.sub("", text)
    words, rest = _UNIT_TOKEN.findall(text), _UNIT_TOKEN.sub("", text)
    if not words or len(words) > 6 or rest.strip(" {}()*") or any(word.casefold() in _NOT_UNITS for word in words):
        raise Unreadable("text behind a number that is no unit")
    factor, powers, sign, raised = Fraction(1), dict[str, int](), 1, 1
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word in ("/", "per"):
            sign = -1
        elif word in ("square", "sq", "squared", "cubic", "cu", "cubed"):
            raised = (2 if word.startswith("s") else 3) if not word.endswith("ed") else 1
        elif not word.startswith("^"):
            power = sign * raised * _power_after(following)
            unit = _unit_named(word)
            factor *= unit.factor**power
            for base, count in unit.dimension:
                powers[base] = powers.get(base, 0) + count * power
            raised = 1
    return Unit(factor, tuple(sorted((base, power) for base, power in powers.items() if power)))


def _unwrapped_unit(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace(".", " ")


def _power_after(word: str) -> int:
    if word in ("squared", "cubed"):
        return 2 if word == "squared" else 3
    return int(re.sub(r"[^\d-]", "", word)) if word.startswith("^") else 1


def _unit_named(word: str) -> Unit:
    for name in (word, word.casefold(), word.casefold().removesuffix("s")):
        if (found := _SI.get(name) or _UNITS.get(name)) is not None:
            return found
    return Unit(Fraction(1), ((word.casefold().removesuffix("s"), 1),))
