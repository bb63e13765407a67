"""Standard ROI names of AAPM's report TG-263, and proposals for a clinic's spelling.

The names and aliases are data, in ``tg263.json``. :func:`propose` never decides by guessing: a name that
only resembles an alias is offered with the confidence ``fuzzy``, for the user to accept.

References:
    C. Mayo et al., Standardizing Nomenclatures in Radiation Oncology, AAPM Report 263, 2018.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from cdm_nnunet.roi.catalogue import RoiKind, Side, side_of

Confidence = Literal["exact", "alias", "rule", "fuzzy"]

MAX_FUZZY = 3
MIN_SIMILARITY = 0.78
PRESCRIPTION_RANGE_GY = (20.0, 100.0)  # two digits below 20 may also number the targets
_SIDES: Mapping[str, Side] = {
    **dict.fromkeys(("l", "lt", "left", "li", "links", "lks", "gauche", "sin", "sinister"), "L"),
    **dict.fromkeys(("r", "rt", "right", "re", "rechts", "rts", "droit", "droite", "dex", "dexter"), "R"),
}
_FRENCH_SIDES: Mapping[str, Side] = {"g": "L", "d": "R"}
_ATTACHED_SIDES = sorted((token for token in _SIDES if token not in ("sin", "dex")), key=len, reverse=True)
_HELPER_TOKENS = {
    *("opt", "optim", "optimierung", "ring", "rings", "shell", "rind", "dummy", "help", "helper", "hilfe", "hilfs"),
    *("hs", "tmp", "temp", "test", "avoid", "avoidance", "norm", "nt", "ns", "hot", "cold", "hotspot", "coldspot"),
    *("isodose", "push", "block", "overlap", "control", "tuning", "tune", "couch", "couchsurface", "couchinterior"),
    *(
        "table",
        "tisch",
        "bolus",
        "artifact",
        "artefact",
        "artefakt",
        "fiducial",
        "fiducials",
        "marker",
        "markers",
        "seed",
    ),
    *("wire", "poi", "iso", "isocenter", "isocentre", "minus", "margin", "crop", "cropped", "ntox"),
}
_HELPER_PREFIX = re.compile(r"z(?=[A-Z]|[pcg]tv)|[xzXZ]*[_\s]")
_TARGET = re.compile(r"(igtv|ictv|gtv|ctv|itv|ptv)(.*)", re.IGNORECASE | re.DOTALL)
_LEVELS = {"high": "High", "mid": "Mid", "intermediate": "Mid", "low": "Low"}
_TARGET_REST = re.compile(r"([pn]?)(\d{0,2})(high|mid|intermediate|low)?")
_NUMBER = re.compile(
    r"(?<![\d.,])(\d+(?:[.,]\d+)?|\d+p\d+)\s*(cgy|gy|mm|cm|fx|fr|x|%|cc)?(?![\d.,]*\d)(?:\s*x\s*\d+)?", re.IGNORECASE
)
_PRV = re.compile(r"[\s_+-]*prv[\s_+-]*", re.IGNORECASE)
_PRV_MARGIN = re.compile(r"[\s_+-]*(?<![A-Za-z])(\d+(?:[.,]\d+)?)\s*(mm|cm)?(?![A-Za-z])", re.IGNORECASE)
_MARGIN = re.compile(r"\s*\+\s*(\d+)\s*(mm)?\s*$", re.IGNORECASE)
_MINUS_TARGET = re.compile(r"(.+?)\s*-\s*((?:igtv|gtv|ctv|itv|ptv)s?)\s*", re.IGNORECASE)
_TOKENS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")


@dataclass(frozen=True)
class Structure:
    """A standard structure.

    Attributes:
        name: TG-263 name.
        kind: ``oar``, ``external`` or ``other`` (targets have no fixed names).
        side: Side of the body, None for one in the middle or for both sides together.
        mirror: Name of the partner on the other side, None if there is none.
        aliases: Other spellings, without a side.
    """

    name: str
    kind: RoiKind
    side: Side | None
    mirror: str | None
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """A standard name for an ROI.

    Attributes:
        name: TG-263 name.
        kind: Kind of the ROI.
        confidence: ``exact`` (it is the standard name), ``alias`` (it is in the table, except for case, separators and
            the token for the side), ``rule`` (parts of it are: PRV, dose level, a side without a separator) or
            ``fuzzy`` (it resembles an entry; a person must decide).
        similarity: From 0 to 1; 1 unless ``fuzzy``.
    """

    name: str
    kind: RoiKind
    confidence: Confidence
    similarity: float = 1.0


@dataclass(frozen=True)
class Proposals:
    """Information on an ROI from its name.

    Attributes:
        name: The given name.
        kind: Kind of the ROI; None if the name does not show it.
        proposals: Standard names, the best first; may be empty.
        is_helper: Neither anatomy nor a target: an optimisation or ring structure, the couch, a marker.
        prescription_gy: Dose level in a target's name, Gy; None if there is none.
    """

    name: str
    kind: RoiKind | None
    proposals: tuple[Proposal, ...] = ()
    is_helper: bool = False
    prescription_gy: float | None = None

    @property
    def decided(self) -> Proposal | None:
        """The best proposal, unless it is fuzzy."""
        first = self.proposals[0] if self.proposals else None
        return None if first is None or first.confidence == "fuzzy" else first


@functools.cache
def structures() -> Mapping[str, Structure]:
    """The standard structures by name.

    Example:
        >>> structures()["Parotid_L"].mirror, structures()["SpinalCord"].side
        ('Parotid_R', None)
    """
    text = resources.files("cdm_nnunet.roi").joinpath("tg263.json").read_text(encoding="utf-8")
    groups: dict[str, dict[str, list[str]]] = {k: v for k, v in json.loads(text).items() if k != "source"}
    found: dict[str, Structure] = {}
    kind: RoiKind
    for kind in ("external", "oar", "other"):
        for name, aliases in groups[kind].items():
            if not name.endswith("_*"):
                found[name] = Structure(name, kind, None, None, tuple(aliases))
                continue
            left, right = f"{name[:-1]}L", f"{name[:-1]}R"
            found[left] = Structure(left, kind, "L", right, tuple(aliases))
            found[right] = Structure(right, kind, "R", left, tuple(aliases))
    return found


def prescription_gy(name: str) -> float | None:
    """The dose level in the name of a target, Gy; None if there is none or it is ambiguous.

    Four digits are cGy, two digits from 20 on or a number with a fraction are Gy, and a unit decides. Numbers of
    millimetres or fractions are ignored.

    Example:
        >>> [prescription_gy(name) for name in ("PTV_5425", "PTV70", "PTV 59.4", "PTV1_60Gy", "PTV1", "PTV_54_60")]
        [54.25, 70.0, 59.4, 60.0, None, None]
    """
    found = _dose_number(name)
    return None if found is None else found[0]


@functools.lru_cache(maxsize=16384)
def propose(name: str) -> Proposals:
    """Propose standard names for an ROI's name.

    Args:
        name: Spelling of a clinic.

    Example:
        >>> propose("Parotis li").decided
        Proposal(name='Parotid_L', kind='oar', confidence='alias', similarity=1.0)
        >>> propose("PTV 70Gy").decided, propose("zPTV_opt").is_helper
        (Proposal(name='PTV_7000', kind='target', confidence='rule', similarity=1.0), True)
        >>> propose("Parotidd_L").decided is None, propose("Parotidd_L").proposals[0].confidence
        (True, 'fuzzy')
    """
    stripped = name.strip()
    if (known := structures().get(stripped)) is not None:
        return Proposals(name, known.kind, (Proposal(known.name, known.kind, "exact"),))
    found = None if _HELPER_PREFIX.match(stripped) else _look_up(stripped)
    if found is not None:
        return Proposals(name, found.kind, (found,))
    if _is_helper(stripped):
        return Proposals(name, "other", is_helper=True)
    if (target := _TARGET.match(stripped)) is not None:
        return _propose_target(name, target)
    if (minus := _MINUS_TARGET.fullmatch(stripped)) is not None:
        return _propose_minus(name, minus[1], minus[2].upper().removesuffix("S"))
    if re.search(r"(?<![a-z])[cgip]tv", stripped, re.IGNORECASE):
        return Proposals(name, "target", prescription_gy=prescription_gy(stripped))
    fuzzy = _resembling(stripped)
    return Proposals(name, fuzzy[0].kind if fuzzy else None, fuzzy)


def _fold(text: str) -> str:
    """Remove accents; German umlauts become two letters."""
    for letter, plain in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss"), ("œ", "oe"), ("Œ", "OE")):
        text = text.replace(letter, plain)
    text = text.replace("Ä", "Ae").replace("Ö", "Oe").replace("Ü", "Ue")
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def _tokens(text: str) -> list[str]:
    return [token.lower() for token in _TOKENS.findall(_fold(text))]


def _keys(alias: str) -> set[str]:
    """Spellings of an alias: umlauts as two letters or without dots."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", alias.replace("ß", "ss")) if not unicodedata.combining(c))
    return {"".join(_tokens(alias)), "".join(_tokens(bare))}


@functools.cache
def _index() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Normalised spelling to name: for structures without a side, and for those with one (to the name without it)."""
    middle: dict[str, str] = {}
    sided: dict[str, str] = {}
    for structure in structures().values():
        table, base = (middle, structure.name) if structure.side is None else (sided, structure.name[:-2])
        for alias in (base, *structure.aliases):
            for key in _keys(alias):
                table[key] = base
    return middle, sided


def _is_helper(name: str) -> bool:
    """Whether the name is that of a helper structure, or of something outside the patient."""
    if _HELPER_PREFIX.match(name):
        return True
    if target := _TARGET.match(name):
        rest = _fold(target[2]).lower()
        if re.search(r"-\s*[a-z]|(?<![a-z])(?:opt|ring|shell|help|dummy|minus|crop)|opt(?![a-z])", rest):
            return True
    return any(token in _HELPER_TOKENS for token in _tokens(name))


def _dose_number(name: str) -> tuple[float, tuple[int, int]] | None:
    """The dose level in a name and its position."""
    by_unit, by_digits, others = [], [], 0
    for match in _NUMBER.finditer(name):
        text, unit = match[1].replace(",", ".").replace("p", "."), (match[2] or "").lower()
        if " x" in match[0].lower() or re.search(r"x\s*\d", match[0], re.IGNORECASE):
            return None  # "20Gyx3" and "2000x3" are ambiguous
        value = float(text)
        if unit in ("gy", "cgy"):
            by_unit.append((value / 100 if unit == "cgy" else value, match.span()))
        elif unit:
            continue
        elif len(text) == 4 and text.isdigit() and not 2010 <= value <= 2039:  # (a year?)
            by_digits.append((value / 100, match.span()))
        elif re.fullmatch(r"\d\d(\.\d+)?", text) and value >= PRESCRIPTION_RANGE_GY[0]:
            by_digits.append((value, match.span()))
        elif len(text) > 1:
            others += 1
    found = by_unit or by_digits
    if len(found) != 1 or (others and not by_unit) or not 1 <= found[0][0] <= PRESCRIPTION_RANGE_GY[1]:
        return None
    return found[0]


def _propose_target(name: str, target: re.Match[str]) -> Proposals:
    stripped = name.strip()
    found = _dose_number(target[2])
    rest = target[2]
    if found is not None:
        begin, end = found[1]
        rest = rest[:begin] + rest[end:]
    parts = _TARGET_REST.fullmatch(re.sub(r"[\s_-]", "", rest).lower())
    dose_gy = None if found is None else found[0]
    if parts is None or (re.search(r"\d", rest) and found is None and len(parts[2]) > 1):
        return Proposals(name, "target", prescription_gy=dose_gy)
    standard = target[1].upper() + parts[1] + parts[2]
    if parts[3]:
        standard += f"_{_LEVELS[parts[3]]}"
    if dose_gy is not None:
        standard += f"_{round(dose_gy * 100)}"
    confidence: Confidence = "exact" if standard == stripped else "rule"
    return Proposals(name, "target", (Proposal(standard, "target", confidence),), prescription_gy=dose_gy)


def _propose_minus(name: str, organ: str, target: str) -> Proposals:
    """An organ without the target, such as ``Lungs-GTV``."""
    found = propose(organ)
    known = structures().get(f"{found.proposals[0].name}-{target}") if found.decided else None
    if known is not None:
        return Proposals(name, known.kind, (Proposal(known.name, known.kind, "alias"),))
    return Proposals(
        name,
        found.kind,
        tuple(
            Proposal(f"{p.name}-{target}", p.kind, "fuzzy" if p.confidence == "fuzzy" else "rule", p.similarity)
            for p in found.proposals
        ),
    )


def _look_up(name: str) -> Proposal | None:
    """A name of the table, with side and PRV margin if present."""
    rest = _PRV.sub(" ", name, count=1)
    margin = (_PRV_MARGIN if rest != name else _MARGIN).search(rest)
    if rest == name and margin is None:
        return _look_up_plain(name)
    if margin is not None:
        rest = f"{rest[: margin.start()]} {rest[margin.end() :]}"
    inner = _look_up_plain(rest)
    if inner is None:
        return None
    digits = ""
    if margin is not None:
        margin_mm = float(margin[1].replace(",", ".")) * (10 if (margin[2] or "").lower() == "cm" else 1)
        digits = f"{margin_mm:02.0f}" if margin_mm == round(margin_mm) else ""
    side = side_of(inner.name)
    standard = f"{inner.name}_PRV{digits}" if side is None else f"{inner.name[:-2]}_PRV{digits}_{side}"
    return Proposal(standard, inner.kind, "exact" if standard == name else "rule")


def _look_up_plain(name: str) -> Proposal | None:
    middle, sided = _index()
    tokens = _tokens(name)
    joined = "".join(tokens)
    if joined in middle:
        return _proposal(middle[joined], "alias")
    tables: tuple[tuple[Mapping[str, Side], Confidence], ...] = ((_SIDES, "alias"), (_FRENCH_SIDES, "rule"))
    for table, confidence in tables:
        found = {
            f"{sided[rest]}_{table[token]}"
            for k, token in enumerate(tokens)
            if token in table and (rest := "".join(tokens[:k] + tokens[k + 1 :])) in sided
        }
        if len(found) == 1:
            return _proposal(found.pop(), confidence)
    for token in _ATTACHED_SIDES:
        for rest in (joined.removeprefix(token), joined.removesuffix(token)):
            if rest != joined and rest in sided:
                return _proposal(f"{sided[rest]}_{_SIDES[token]}", "rule")
    return None


def _proposal(name: str, confidence: Confidence, similarity: float = 1.0) -> Proposal:
    return Proposal(name, structures()[name].kind, confidence, similarity)


def _resembling(name: str) -> tuple[Proposal, ...]:
    """Standard names whose spellings resemble a name, the most similar first."""
    middle, sided = _index()
    tokens = _tokens(name)
    joined = "".join(tokens)
    sides = {_SIDES[token] for token in tokens if token in _SIDES}
    bare = "".join(token for token in tokens if token not in _SIDES)
    best: dict[str, float] = {}
    for text, table, wanted in ((joined, middle, {""}), (bare, sided, {f"_{s}" for s in sides} or {"_L", "_R"})):
        for key in difflib.get_close_matches(text, table, MAX_FUZZY, MIN_SIMILARITY):
            similarity = difflib.SequenceMatcher(None, text, key).ratio()
            for suffix in wanted:
                full = table[key] + suffix
                best[full] = max(best.get(full, 0.0), similarity)
    ranked = sorted(best, key=lambda found: (-best[found], found))[:MAX_FUZZY]
    return tuple(_proposal(found, "fuzzy", round(best[found], 2)) for found in ranked)
